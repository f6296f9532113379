"""How far metrics would move with other queries: percentile intervals of the bootstrap (Efron and Tibshirani 1993).

Drawn with replacement are videos, each with all queries about it: captions of one video are not independent, and an
interval that takes them so is too narrow.
"""

from typing import NamedTuple

import numpy as np

from fpig_core.metrics import RECALL_AT

NUM_RESAMPLES = 1000
LEVEL = 0.95
METRICS = (*(f"R@{k}" for k in RECALL_AT), "MdR", "MnR", "SumR")
_MAX_WEIGHTS = 2**22


class Difference(NamedTuple):
    """A metric of the second system less that of the first; ``p``: two-sided, of no difference at all."""

    difference: float
    low: float
    high: float
    p: float


def resampled_metrics(
    rank_n: np.ndarray, video_n: np.ndarray, *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> dict[str, np.ndarray]:
    """Metrics [resamples] by name; ``video_n`` is the video that each rank belongs to, any integers.

    Equal ``video_n`` and seed give equal draws: resamples of two systems are then pairs.

    Raises:
        ValueError: no ranks, not one video a rank, or no resamples.
    """
    if not len(rank_n) or len(rank_n) != len(video_n) or num_resamples < 1:
        raise ValueError(
            f"got {len(rank_n)} ranks of {len(video_n)} videos and {num_resamples} resamples; "
            "wanted some ranks, a video for each, and at least one resample"
        )
    order_n = np.argsort(rank_n, kind="stable")
    rank_n = np.asarray(rank_n, np.int64)[order_n]
    distinct, cluster_n = np.unique(video_n, return_inverse=True)
    num_videos, cluster_n = len(distinct), cluster_n[order_n]
    rng, step = np.random.default_rng(seed), max(1, _MAX_WEIGHTS // len(rank_n))
    found = []
    for start in range(0, num_resamples, step):
        drawn = [
            np.bincount(rng.integers(0, num_videos, num_videos), minlength=num_videos)
            for _ in range(min(step, num_resamples - start))
        ]
        found.append(_weighted_metrics(rank_n, np.stack(drawn)[:, cluster_n]))
    return {name: np.concatenate([part[name] for part in found]) for name in METRICS}


def intervals(
    rank_n: np.ndarray, video_n: np.ndarray, *, num_resamples: int = NUM_RESAMPLES, seed: int = 0, level: float = LEVEL
) -> dict[str, list[float]]:
    """``[low, high]`` of each metric, between which the middle ``level`` of the resamples lie."""
    metrics = resampled_metrics(rank_n, video_n, num_resamples=num_resamples, seed=seed)
    return {name: _middle(value, level) for name, value in metrics.items()}


def paired_differences(
    first_n: np.ndarray,
    second_n: np.ndarray,
    video_n: np.ndarray,
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[str, Difference]:
    """Metrics by the ranks ``second_n`` less those by ``first_n``, ranks of the same queries by two systems.

    Above 0 the second system is the better one in recall, and the worse one in MdR and MnR.
    """
    if len(first_n) != len(second_n):
        raise ValueError(f"got {len(first_n)} and {len(second_n)} ranks, wanted those of the same queries")
    whole = [_weighted_metrics(np.sort(ranks), np.ones((1, len(ranks)), np.int64)) for ranks in (first_n, second_n)]
    first, second = (
        resampled_metrics(ranks, video_n, num_resamples=num_resamples, seed=seed) for ranks in (first_n, second_n)
    )
    return {
        name: Difference(
            float(whole[1][name][0] - whole[0][name][0]),
            *_middle(second[name] - first[name], level),
            p=_two_sided(second[name] - first[name]),
        )
        for name in METRICS
    }


def _weighted_metrics(rank_n: np.ndarray, weight_En: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics [E] of E multisets of rising ranks, of which each rank occurs ``weight_En`` times."""
    until_En = weight_En.cumsum(axis=1)
    total_E = until_En[:, -1]
    below = {k: int(np.searchsorted(rank_n, k, side="right")) for k in RECALL_AT}
    recall = {f"R@{k}": until_En[:, n - 1] / total_E * 100 if n else np.zeros(len(total_E)) for k, n in below.items()}
    middle = [rank_n[(until_En > place[:, None]).argmax(axis=1)] for place in ((total_E - 1) // 2, total_E // 2)]
    return recall | {
        "MdR": (middle[0] + middle[1]) / 2,
        "MnR": weight_En @ rank_n / total_E,
        "SumR": sum(recall.values(), start=np.zeros(len(total_E))),
    }


def _middle(value: np.ndarray, level: float) -> list[float]:
    low, high = np.quantile(value, [(1 - level) / 2, (1 + level) / 2])
    return [float(low), float(high)]


def _two_sided(difference: np.ndarray) -> float:
    """Share of resamples on the rarer side of no difference, doubled; never 0, which no number of draws can show."""
    rarer = min((difference <= 0).sum(), (difference >= 0).sum())
    return float(min(1.0, 2 * (rarer + 1) / (len(difference) + 1)))
