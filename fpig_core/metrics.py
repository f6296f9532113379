"""Retrieval metrics: ranks that never flatter, and what is said about them.

A rank is the number of candidates whose score is at least the target's: 1 is best, ties count against the model, and
a model that gives every candidate one score gets the worst rank, not the best.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

RECALL_AT = (1, 5, 10)
TIE_TOLERANCE = 1e-9
"""Scores nearer than this are ties when scores come from float64 products, whose last bits depend on blocking."""


def best_ranks(score_RC: Tensor, own_RC: Tensor, *, tolerance: float = 0.0) -> Tensor:
    """Best rank among the own candidates (columns) of each searcher (row) -> int64 [R]; every row owns at least one.

    Raises:
        ValueError: scores with NaN or inf.
    """
    if not torch.isfinite(score_RC).all():
        num_bad = int((~torch.isfinite(score_RC)).sum())
        raise ValueError(f"got {num_bad} scores that are NaN or inf, wanted finite scores; check the model's vectors")
    best_R1 = score_RC.masked_fill(~own_RC, -torch.inf).amax(dim=1, keepdim=True)
    return (score_RC >= best_R1 - tolerance).sum(dim=1)


def text_to_video_ranks(query_QD: Tensor, video_BD: Tensor, target_Q: Tensor, *, max_scores: int = 2**24) -> Tensor:
    """Rank of each query's video among all videos -> int64 [Q]; at most ``max_scores`` scores stand in memory."""
    _check_targets(target_Q, num_queries=len(query_QD), num_videos=len(video_BD))
    column_B = torch.arange(len(video_BD), device=target_Q.device)
    ranks = [
        best_ranks(score, target_Q[rows, None] == column_B, tolerance=TIE_TOLERANCE)
        for rows, score in _score_blocks(query_QD, video_BD, max_scores=max_scores)
    ]
    return torch.cat(ranks)


def video_to_text_ranks(query_QD: Tensor, video_BD: Tensor, target_Q: Tensor, *, max_scores: int = 2**24) -> Tensor:
    """Best rank among its own sentences of each video that has one, against all sentences -> int64 [≤ B]."""
    _check_targets(target_Q, num_queries=len(query_QD), num_videos=len(video_BD))
    captioned = target_Q.unique()
    ranks = [
        best_ranks(score, captioned[rows, None] == target_Q, tolerance=TIE_TOLERANCE)
        for rows, score in _score_blocks(video_BD[captioned], query_QD, max_scores=max_scores)
    ]
    return torch.cat(ranks)


def summarise_ranks(rank_Q: Tensor) -> dict[str, float]:
    """R@1, R@5, R@10 in percent, their sum SumR, and the median and mean rank MdR, MnR.

    Raises:
        ValueError: no rank at all.
    """
    if not len(rank_Q):
        raise ValueError("got no queries, wanted at least one")
    rank = rank_Q.double()
    recall = {f"R@{k}": float((rank <= k).double().mean()) * 100 for k in RECALL_AT}
    ordered, last = rank.sort().values, len(rank) - 1
    return recall | {
        # Tensor.median takes the lower of two middle ranks; the usual median is their mean.
        "MdR": float(ordered[last // 2] + ordered[(last + 1) // 2]) / 2,
        "MnR": float(rank.mean()),
        "SumR": sum(recall.values()),
    }


def retrieval_metrics(
    query_QD: Tensor, video_BD: Tensor, target_Q: Tensor, *, max_scores: int = 2**24
) -> dict[str, dict[str, float]]:
    """Metrics of both directions by inner product -> ``{"t2v": {"R@1": …}, "v2t": {…}}``.

    ``target_Q`` is the column of ``video_BD`` that each query describes; several queries may share one
    (multi-sentence). Products are taken in float64, in blocks of at most ``max_scores``.

    Raises:
        ValueError: vectors with NaN or inf, targets out of range, or no queries.
    """
    return {
        "t2v": summarise_ranks(text_to_video_ranks(query_QD, video_BD, target_Q, max_scores=max_scores)),
        "v2t": summarise_ranks(video_to_text_ranks(query_QD, video_BD, target_Q, max_scores=max_scores)),
    }


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


def _score_blocks(row_RD: Tensor, column_CD: Tensor, *, max_scores: int) -> Iterator[tuple[slice, Tensor]]:
    """Float64 scores of consecutive row blocks against all columns."""
    column_DC = column_CD.double().T
    step = max(1, max_scores // len(column_CD))
    for start in range(0, len(row_RD), step):
        rows = slice(start, start + step)
        yield rows, row_RD[rows].double() @ column_DC


def _check_targets(target_Q: Tensor, *, num_queries: int, num_videos: int) -> None:
    if not num_queries:
        raise ValueError("got no queries, wanted at least one")
    if len(target_Q) != num_queries:
        raise ValueError(f"got {len(target_Q)} targets for {num_queries} queries, wanted one target a query")
    if int(target_Q.min()) < 0 or int(target_Q.max()) >= num_videos:
        raise ValueError(f"got targets {int(target_Q.min())}…{int(target_Q.max())}, wanted 0…{num_videos - 1}")
