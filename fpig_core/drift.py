"""Does another model change a search more than it should? Two models' vectors of the same videos and queries, compared.

Vectors of two models are never compared with each other, only what follows from each: lengths, who is found, ranks.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
import torch

from fpig_core.index import exact_top
from fpig_core.metrics import DIRECTIONS, RECALL_AT, retrieval_metrics

TOP = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class DriftLimits:
    """How far a candidate may be from the current model before somebody should look."""

    max_length_change: float = 0.05
    """Relative change of the median length of vectors, and change of their spread. Lengths are part of every score;
    another end of the model (a missing normalisation, half precision that overflows) shows here first."""
    min_overlap: float = 0.5
    """Mean share of the videos found by the current model that the candidate finds, too. Two trainings with other seeds
    share most of them; a broken text tower shares what chance gives."""
    max_recall_drop: float = 2.0
    """Percentage points that R@1, R@5 or R@10 may fall, in either direction. Of 1,000 queries 2 points are some 1.3
    standard errors of R@1, so that a smaller canary set wants a larger value."""
    max_rejected: float = 0.0
    """Share of the videos that the candidate may reject beyond those that the current model rejects."""
    same_width: bool = True
    """Refuse vectors of another width: stores and indexes of the old width cannot take them."""

    def __post_init__(self) -> None:
        for name in ("max_length_change", "max_recall_drop", "max_rejected"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"got {name}={getattr(self, name)}, wanted at least 0")
        if not 0 <= self.min_overlap <= 1:
            raise ValueError(f"got min_overlap={self.min_overlap}, wanted 0 to 1")


class Canary(NamedTuple):
    """What one model makes of a canary set; all models have the same videos and queries, in the same order."""

    query_QD: np.ndarray
    video_BD: np.ndarray
    rejected_share: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """One figure of both models, how far apart they are, and the limit of that."""

    name: str
    current: float
    candidate: float
    change: float
    limit: str
    ok: bool


def compare_canaries(current: Canary, candidate: Canary, target_Q: np.ndarray, *, limits: DriftLimits) -> list[Check]:
    """All checks, also those that pass. ``target_Q`` is the video that each query describes.

    Raises:
        ValueError: no queries, or vectors with NaN or inf.
    """
    return [
        _width(current, candidate, limits),
        *_lengths(current.video_BD, candidate.video_BD, limits),
        _at_most("rejected share", current.rejected_share, candidate.rejected_share, limit=limits.max_rejected, sign=1),
        _overlap(current, candidate, limits),
        *_recalls(current, candidate, target_Q, limits),
    ]


def _width(current: Canary, candidate: Canary, limits: DriftLimits) -> Check:
    old, new = current.video_BD.shape[1], candidate.video_BD.shape[1]
    limit = "the same" if limits.same_width else "any"
    return Check(
        name="width", current=old, candidate=new, change=new - old, limit=limit, ok=limit == "any" or old == new
    )


def _lengths(old_BD: np.ndarray, new_BD: np.ndarray, limits: DriftLimits) -> list[Check]:
    old_B, new_B = (np.linalg.norm(x.astype(np.float64), axis=1) for x in (old_BD, new_BD))
    old, new, largest = float(np.median(old_B)), float(np.median(new_B)), limits.max_length_change
    change = new / old - 1 if old else float(new > 0)
    spread = [float(x.std() / max(np.median(x), 1e-12)) for x in (old_B, new_B)]
    return [
        Check(
            name="median length",
            current=old,
            candidate=new,
            change=change,
            limit=f"within ±{largest:g} of the current one",
            ok=abs(change) <= largest,
        ),
        _at_most("spread of lengths", *spread, limit=largest, sign=1),
    ]


def _overlap(current: Canary, candidate: Canary, limits: DriftLimits) -> Check:
    # Of few videos a short list: ten of eleven would overlap whatever the models do.
    top = max(1, min(TOP, len(current.video_BD) // 4))
    old_QK, new_QK = (
        exact_top(np.asarray(each.query_QD, np.float32), np.asarray(each.video_BD, np.float32), top)[1]
        for each in (current, candidate)
    )
    share = float(np.mean([len(set(old_K) & set(new_K)) / top for old_K, new_K in zip(old_QK, new_QK, strict=True)]))
    return Check(
        name=f"overlap of the best {top}",
        current=1.0,
        candidate=share,
        change=share - 1,
        limit=f"at least {limits.min_overlap:g}",
        ok=share >= limits.min_overlap,
    )


def _recalls(current: Canary, candidate: Canary, target_Q: np.ndarray, limits: DriftLimits) -> list[Check]:
    old, new = (
        retrieval_metrics(torch.from_numpy(x.query_QD), torch.from_numpy(x.video_BD), torch.from_numpy(target_Q))
        for x in (current, candidate)
    )
    return [
        _at_most(f"{way} R@{k}", old[way][f"R@{k}"], new[way][f"R@{k}"], limit=limits.max_recall_drop, sign=-1)
        for way in DIRECTIONS
        for k in RECALL_AT
    ]


def _at_most(name: str, old: float, new: float, *, limit: float, sign: int) -> Check:
    """The figure may grow (``sign`` 1) or fall (−1) by no more than ``limit``."""
    told = f"{'+' if sign > 0 else '−'}{limit:g} at most"
    return Check(
        name=name, current=old, candidate=new, change=new - old, limit=told, ok=sign * (new - old) <= limit + 1e-9
    )
