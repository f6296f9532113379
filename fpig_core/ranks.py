"""Ranks that never flatter, counted in blocks: a matrix of all scores never stands in memory.

A rank is the number of candidates whose score is at least the target's: 1 is best, ties count against the model, and
a model that gives every candidate one score gets the worst rank, not the best.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

TIE_TOLERANCE = 1e-9
"""Float64 products nearer than this, relative to the lengths of their vectors, are ties: last bits depend on blocks."""
MAX_SCORES = 2**22


class Scores(Protocol):
    """Scores of all pairs of queries and videos, higher is better, computed block by block."""

    @property
    def shape(self) -> tuple[int, int]:
        """Number of queries and of videos."""
        ...

    def block(self, queries: slice, videos: slice) -> Tensor:
        """Scores float64 [queries, videos], which the caller may overwrite."""
        ...

    def own(self, target_Q: Tensor) -> Tensor:
        """Score float64 [Q] of each query with the video that it describes."""
        ...

    def query_tolerance(self, own_Q: Tensor) -> Tensor:
        """How near [Q] to a query's own score another one counts as a tie."""
        ...

    def video_tolerance(self, best_B: Tensor) -> Tensor:
        """How near [B] to the best own score of a video another one counts as a tie."""
        ...


class Ranks(NamedTuple):
    """``t2v_Q`` int64: rank of each query's video among all videos; ``margin_Q``: its score above the best other one's.

    ``v2t_R`` int64: of each video that has a query, the best rank among its own queries against all; ``video_R`` int64:
    which videos these are, in rising order.
    """

    t2v_Q: Tensor
    v2t_R: Tensor
    video_R: Tensor
    margin_Q: Tensor


class VectorScores:
    """Inner products of vectors, in float64.

    Raises:
        ValueError: vectors that are not [Q, D] and [B, D], or hold NaN or inf.
    """

    def __init__(self, query_QD: Tensor, video_BD: Tensor) -> None:
        if query_QD.ndim != 2 or video_BD.ndim != 2 or query_QD.shape[1] != video_BD.shape[1]:
            raise ValueError(f"got shapes {[*query_QD.shape]} and {[*video_BD.shape]}, wanted [Q, D] and [B, D]")
        check_finite(query_QD, what="numbers in the vectors of queries")
        check_finite(video_BD, what="numbers in the vectors of videos")
        self._query_QD, self._video_BD = query_QD, video_BD
        self._length_Q, self._length_B = (torch.linalg.vector_norm(x.double(), dim=1) for x in (query_QD, video_BD))

    @property
    def shape(self) -> tuple[int, int]:
        return len(self._query_QD), len(self._video_BD)

    def block(self, queries: slice, videos: slice) -> Tensor:
        return self._query_QD[queries].double() @ self._video_BD[videos].double().T

    def own(self, target_Q: Tensor) -> Tensor:
        step = max(1, MAX_SCORES // self._query_QD.shape[1])
        return torch.cat(
            [
                torch.einsum("qd,qd->q", self._query_QD[rows].double(), self._video_BD[target_Q[rows]].double())
                for rows in spans(len(target_Q), step)
            ]
        )

    def query_tolerance(self, own_Q: Tensor) -> Tensor:
        return TIE_TOLERANCE * self._length_Q * self._length_B.max()

    def video_tolerance(self, best_B: Tensor) -> Tensor:
        return TIE_TOLERANCE * self._length_B * self._length_Q.max()


class MatrixScores:
    """Scores that stand in memory as they are; only equal ones are ties."""

    def __init__(self, score_QB: Tensor) -> None:
        if score_QB.ndim != 2:
            raise ValueError(f"got scores of shape {[*score_QB.shape]}, wanted [queries, videos]")
        self._score_QB = score_QB

    @property
    def shape(self) -> tuple[int, int]:
        return self._score_QB.shape[0], self._score_QB.shape[1]

    def block(self, queries: slice, videos: slice) -> Tensor:
        return self._score_QB[queries, videos].to(torch.float64, copy=True)

    def own(self, target_Q: Tensor) -> Tensor:
        return self._score_QB.gather(1, target_Q[:, None])[:, 0].double()

    def query_tolerance(self, own_Q: Tensor) -> Tensor:
        return torch.zeros_like(own_Q)

    def video_tolerance(self, best_B: Tensor) -> Tensor:
        return torch.zeros_like(best_B)


def rank_both(
    scores: Scores, target_Q: Tensor, *, video_scores: Scores | None = None, max_scores: int = MAX_SCORES
) -> Ranks:
    """Ranks of both directions; ``target_Q`` is the video that each query describes, several may share one.

    ``video_scores`` are what texts are ranked by for a video, where that differs from what videos are ranked by for a
    text. At most ``max_scores`` scores are computed at once.

    Raises:
        ValueError: scores with NaN or inf, targets out of range, or no queries.
    """
    num_queries, num_videos = scores.shape
    check_targets(target_Q, num_queries=num_queries, num_videos=num_videos)
    own_Q, own_of_video_Q = scores.own(target_Q), (video_scores or scores).own(target_Q)
    best_B = own_Q.new_full((num_videos,), -torch.inf).scatter_reduce(0, target_Q, own_of_video_Q, "amax")
    query_floor_Q = own_Q - scores.query_tolerance(own_Q)
    video_floor_B = best_B - (video_scores or scores).video_tolerance(best_B)
    t2v_Q, v2t_B = torch.zeros_like(target_Q), target_Q.new_zeros(num_videos)
    other_Q = torch.full_like(own_Q, -torch.inf)
    for queries, videos in blocks(num_queries, num_videos, max_scores=max_scores):
        score = _finite_block(scores, queries, videos)
        t2v_Q[queries] += (score >= query_floor_Q[queries, None]).sum(dim=1, dtype=torch.int32)
        of_video = score if video_scores is None else _finite_block(video_scores, queries, videos)
        v2t_B[videos] += (of_video >= video_floor_B[videos]).sum(dim=0, dtype=torch.int32)
        column = target_Q[queries] - videos.start
        here = ((column >= 0) & (column < score.shape[1])).nonzero()[:, 0]
        score[here, column[here]] = -torch.inf
        other_Q[queries] = torch.maximum(other_Q[queries], score.amax(dim=1))
    video_R = target_Q.unique()
    return Ranks(t2v_Q=t2v_Q, v2t_R=v2t_B[video_R], video_R=video_R, margin_Q=own_Q - other_Q)


def best_ranks(score_RC: Tensor, own_RC: Tensor) -> Tensor:
    """Best rank among the own candidates (columns) of each searcher (row) -> int64 [R]; every row owns at least one.

    Raises:
        ValueError: scores with NaN or inf.
    """
    check_finite(score_RC, what="scores")
    best_R1 = score_RC.masked_fill(~own_RC, -torch.inf).amax(dim=1, keepdim=True)
    return (score_RC >= best_R1).sum(dim=1)


def targets_by_id(query_ids: Sequence[str], video_ids: Sequence[str]) -> Tensor:
    """Column of each query's video, joined by id and never by order -> int64 [Q].

    Raises:
        ValueError: an id that stands for two videos, or a query whose id has no video.
    """
    column = {video_id: i for i, video_id in enumerate(video_ids)}
    if len(column) != len(video_ids):
        raise ValueError(f"got {len(video_ids)} videos with {len(column)} distinct ids, wanted one id a video")
    unknown = sorted({query_id for query_id in query_ids if query_id not in column})
    if unknown:
        raise ValueError(f"got {len(unknown)} ids of queries without a video (first: {unknown[0]}); leave them out")
    return torch.tensor([column[query_id] for query_id in query_ids], dtype=torch.int64)


def blocks(num_queries: int, num_videos: int, *, max_scores: int = MAX_SCORES) -> Iterator[tuple[slice, slice]]:
    """Blocks of queries and videos that cover all pairs once, each with at most ``max_scores`` of them."""
    side = max(1, math.isqrt(max_scores))
    for queries in spans(num_queries, side):
        for videos in spans(num_videos, side):
            yield queries, videos


def spans(total: int, step: int) -> Iterator[slice]:
    """Consecutive slices of ``step``, the last one shorter."""
    return (slice(start, min(start + step, total)) for start in range(0, total, step))


def check_finite(value: Tensor, *, what: str) -> None:
    """Refuse NaN and inf: comparisons with them would count as good ranks."""
    # Both ends tell it too (NaN is both), in a tenth of the time of looking at each value.
    if value.numel() and not torch.isfinite(torch.stack(value.aminmax())).all():
        num_bad = int((~torch.isfinite(value)).sum())
        raise ValueError(f"got {num_bad} {what} that are NaN or inf, wanted finite ones; check the model")


def check_targets(target_Q: Tensor, *, num_queries: int, num_videos: int) -> None:
    if not num_queries:
        raise ValueError("got no queries, wanted at least one")
    if len(target_Q) != num_queries:
        raise ValueError(f"got {len(target_Q)} targets for {num_queries} queries, wanted one target a query")
    if int(target_Q.min()) < 0 or int(target_Q.max()) >= num_videos:
        raise ValueError(f"got targets {int(target_Q.min())}…{int(target_Q.max())}, wanted 0…{num_videos - 1}")


def _finite_block(scores: Scores, queries: slice, videos: slice) -> Tensor:
    score = scores.block(queries, videos)
    check_finite(score, what="scores")
    return score
