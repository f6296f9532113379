"""Ranks of a two-stage result: candidates as the Reranker orders them, and below them all others."""

import numpy as np
import torch
from torch import Tensor

from fpig_core.index import ExactIndex
from fpig_core.models import Reranker
from fpig_core.ranks import Ranks, VectorScores, best_ranks, rank_both
from fpig_core.two_stage import MAX_PAIRS, Table, rerank, rerank_texts


def two_stage_ranks(score_RK: Tensor, own_RK: Tensor, first_rank_R: Tensor) -> Tensor:
    """Best rank among the own items of each searcher (row) -> int64 [R].

    With an own one among the K candidates, it is the number of candidates that score at least as much; without, the
    rank in the first stage.

    Raises:
        ValueError: scores with NaN or inf.
    """
    # Where none is among the candidates, the result of this row is not used.
    reranked_R = best_ranks(score_RK, own_RK)
    # The first stage's float32 search and its float64 ranks may disagree by a hair about who is the K-th.
    below_R = first_rank_R.clamp(min=score_RK.shape[1] + 1)
    return torch.where(own_RK.any(dim=1), reranked_R, below_R)


def rank_two_stages(
    reranker: Reranker,
    query: Table,
    video: Table,
    *,
    query_QD: Tensor,
    video_BD: Tensor,
    target_Q: Tensor,
    first_stage_k: int,
    max_pairs: int = MAX_PAIRS,
) -> tuple[Ranks, Ranks]:
    """Ranks of both stages, and of the first one alone; the margins of both are those of the first stage.

    ``target_Q`` is the video that each query describes; several queries may share one. Either direction reranks its
    own candidates: the ``first_stage_k`` videos nearest to a query, the ``first_stage_k`` queries nearest to a video.

    Raises:
        ValueError: numbers that are not finite, targets out of range, no queries, or a column is missing.
    """
    first = rank_both(VectorScores(query_QD, video_BD), target_Q)
    near_QK = _nearest(query_QD, video_BD, first_stage_k)
    near_RK = _nearest(video_BD[first.video_R], query_QD, first_stage_k)
    score_QK = rerank(reranker, query, video, near_QK, max_pairs=max_pairs)
    score_RK = rerank_texts(reranker, query, video, near_RK, video_R=first.video_R.numpy(), max_pairs=max_pairs)
    own_QK = torch.from_numpy(near_QK) == target_Q[:, None]
    own_RK = target_Q[torch.from_numpy(near_RK)] == first.video_R[:, None]
    both = first._replace(
        t2v_Q=two_stage_ranks(torch.from_numpy(score_QK), own_QK, first.t2v_Q),
        v2t_R=two_stage_ranks(torch.from_numpy(score_RK), own_RK, first.v2t_R),
    )
    return both, first


def _nearest(row_RD: Tensor, column_CD: Tensor, k: int) -> np.ndarray:
    return ExactIndex(column_CD.numpy()).search(row_RD.numpy(), k)[1]
