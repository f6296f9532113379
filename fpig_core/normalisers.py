"""Scores that look at other queries before they rank: extras for comparison with published tables.

A normaliser needs the queries of others, so it does not exist in live search. All three punish candidates that are near
to every searcher ("hubs"). Searchers are queries and candidates videos from text to video, and the other way round from
video to text. With s the scores and τ the scale:

- ``dsl`` (dual softmax, CAMoE, arXiv 2109.04290): s · softmax of τ·s over the searchers.
- ``inverted_softmax`` (Smith et al., ICLR 2017): s − log Σ exp(τ·s) / τ, the sum over the searchers; its order is that
  of exp(τ·s) / Σ exp(τ·s).
- ``qb_norm`` (Bogolin et al., CVPR 2022, dynamic inverted softmax): the sum is over a bank of other searchers; and it
  is used only where the best candidate is one that some searcher of the bank likes best, else s stays.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fpig_core.ranks import MAX_SCORES, TIE_TOLERANCE, Ranks, Scores, VectorScores, blocks, rank_both

NormaliserName = Literal["dsl", "inverted_softmax", "qb_norm"]
SCALE: dict[str, float] = {"dsl": 100.0, "inverted_softmax": 20.0, "qb_norm": 20.0}
"""τ for scores that are cosines: CLIP's largest temperature, and that of QB-Norm's authors."""
Side = Literal["query", "video"]


class Bank(NamedTuple):
    """Queries and videos of another set under the same model, which stand in for a live system's past searches."""

    query_QD: Tensor
    video_BD: Tensor
    name: str


class NormalisedScores:
    """Scores of one direction; ``candidate`` says which side is ranked.

    ``log_sum`` is log Σ exp(τ·s) of each candidate; ``active`` bool, of each searcher, limits an inverted softmax to
    these.
    """

    def __init__(
        self,
        base: Scores,
        *,
        kind: NormaliserName,
        scale: float,
        candidate: Side,
        log_sum: Tensor,
        active: Tensor | None = None,
    ) -> None:
        self._base, self._kind, self._scale, self._candidate = base, kind, scale, candidate
        self._log_sum, self._active = log_sum, active

    @property
    def shape(self) -> tuple[int, int]:
        return self._base.shape

    def block(self, queries: slice, videos: slice) -> Tensor:
        score = self._base.block(queries, videos)
        if self._candidate == "video":
            active = None if self._active is None else self._active[queries, None]
            return self._normalised(score, self._log_sum[videos], active)
        active = None if self._active is None else self._active[videos]
        return self._normalised(score, self._log_sum[queries, None], active)

    def own(self, target_Q: Tensor) -> Tensor:
        log_sum_Q = self._log_sum[target_Q] if self._candidate == "video" else self._log_sum
        active = self._active
        if active is not None and self._candidate == "query":
            active = active[target_Q]
        return self._normalised(self._base.own(target_Q), log_sum_Q, active)

    def query_tolerance(self, own_Q: Tensor) -> Tensor:
        # Products of a softmax may be tiny: what counts as equal is relative to them.
        return TIE_TOLERANCE * own_Q.abs() if self._kind == "dsl" else self._base.query_tolerance(own_Q)

    def video_tolerance(self, best_B: Tensor) -> Tensor:
        if self._kind == "dsl":
            return torch.where(best_B.isfinite(), TIE_TOLERANCE * best_B.abs(), 0.0)
        return self._base.video_tolerance(best_B)

    def _normalised(self, score: Tensor, log_sum: Tensor, active: Tensor | None) -> Tensor:
        if self._kind == "dsl":
            # Below 0 for every searcher of the sum; videos without a query are none, and their ranks are not used.
            return score * (self._scale * score - log_sum).clamp(max=0).exp()
        corrected = score - log_sum / self._scale
        return corrected if active is None else torch.where(active, corrected, score)


def rank_normalised(
    kind: NormaliserName, query_QD: Tensor, video_BD: Tensor, target_Q: Tensor, *, bank: Bank | None = None
) -> Ranks:
    """Ranks of both directions by normalised inner products; ``qb_norm`` wants a bank, the others take none.

    Searchers from video to text are the videos that have a query.

    Raises:
        ValueError: a bank is missing or not wanted, or what ``rank_both`` refuses.
    """
    if (kind == "qb_norm") != (bank is not None):
        raise ValueError(f"got {kind} {'with' if bank else 'without'} a bank; only qb_norm takes one, and needs it")
    scores, scale = VectorScores(query_QD, video_BD), SCALE[kind]
    video_R = target_Q.unique()
    if bank is None:
        log_sum_B = log_sums(scores, scale, of="video")
        log_sum_Q = log_sums(VectorScores(query_QD, video_BD[video_R]), scale, of="query")
        active_Q = active_B = None
    else:
        past_texts, past_videos = VectorScores(bank.query_QD, video_BD), VectorScores(query_QD, bank.video_BD)
        log_sum_B, log_sum_Q = log_sums(past_texts, scale, of="video"), log_sums(past_videos, scale, of="query")
        active_Q = torch.isin(best_candidates(scores, of="query"), best_candidates(past_texts, of="query"))
        active_B = torch.isin(best_candidates(scores, of="video"), best_candidates(past_videos, of="video"))
    to_video = NormalisedScores(scores, kind=kind, scale=scale, candidate="video", log_sum=log_sum_B, active=active_Q)
    to_text = NormalisedScores(scores, kind=kind, scale=scale, candidate="query", log_sum=log_sum_Q, active=active_B)
    return rank_both(to_video, target_Q, video_scores=to_text)


def full_name(kind: NormaliserName, *, bank: Bank | None = None) -> str:
    """The name that a result carries: what was done, with which scale, and whose queries were looked at."""
    looked_at = f"bank={bank.name}" if bank else "bank=the test itself"
    return f"{kind}(scale={SCALE[kind]:g}, {looked_at})"


def log_sums(scores: Scores, scale: float, *, of: Side, max_scores: int = MAX_SCORES) -> Tensor:
    """log Σ exp(τ·s) over the other side, of each query [Q] or each video [B], in float64."""
    num_queries, num_videos = scores.shape
    total: Tensor | None = None
    for queries, videos in blocks(num_queries, num_videos, max_scores=max_scores):
        score = scores.block(queries, videos)
        if total is None:
            total = score.new_full((num_queries if of == "query" else num_videos,), -torch.inf)
        rows, axis = (queries, 1) if of == "query" else (videos, 0)
        total[rows] = torch.logaddexp(total[rows], (scale * score).logsumexp(dim=axis))
    if total is None:
        raise ValueError(f"got {num_queries} queries and {num_videos} videos to normalise by, wanted some of both")
    return total


def best_candidates(scores: Scores, *, of: Side, max_scores: int = MAX_SCORES) -> Tensor:
    """The best video of each query [Q], or the best query of each video [B]; of equal ones the first."""
    num_queries, num_videos = scores.shape
    size = num_queries if of == "query" else num_videos
    best: Tensor | None = None
    place = torch.zeros(0)
    for queries, videos in blocks(num_queries, num_videos, max_scores=max_scores):
        score = scores.block(queries, videos)
        if best is None:
            best = score.new_full((size,), -torch.inf)
            place = torch.zeros(size, dtype=torch.int64, device=score.device)
        rows, axis, start = (queries, 1, videos.start) if of == "query" else (videos, 0, queries.start)
        here, where = score.max(dim=axis)
        better = here > best[rows]
        best[rows] = torch.where(better, here, best[rows])
        place[rows] = torch.where(better, where + start, place[rows])
    return place
