"""Two-stage search: a first stage by inner product names candidates, and a Reranker judges them pair by pair.

Gather first, then score: of what is stored, only rows of candidates are ever touched. Rows stay where they are, on the
CPU as a rule; chunks of them move to the Reranker's device.
"""

from collections.abc import Collection, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from fpig_core.index import ExactIndex
from fpig_core.models import Reranker
from fpig_core.precision import at_least_float32

MAX_PAIRS = 128

Table = Mapping[str, np.ndarray | Tensor]
"""Arrays by name with one row a query or a video: [rows, …]."""


def columns_to_read(reranker: Reranker, stored: Collection[str]) -> tuple[str, ...]:
    """What ``score`` needs of videos, and what it uses of that which is ``stored``.

    Raises:
        ValueError: something it needs is not stored.
    """
    if missing := [name for name in reranker.rerank_columns if name not in stored]:
        raise ValueError(
            f"got the columns {', '.join(stored)}; reranking needs {', '.join(missing)} too: "
            "embed the videos into a new folder with --rerank-columns"
        )
    optional = [name for name in reranker.optional_rerank_columns if name in stored]
    return tuple(dict.fromkeys([*reranker.rerank_columns, *optional]))


def rerank(
    reranker: Reranker, query: Table, video: Table, candidate_QK: np.ndarray, *, max_pairs: int = MAX_PAIRS
) -> np.ndarray:
    """Scores [Q, K] of each query with its candidates, which are rows of ``video``. See ``score_pairs``."""
    num_queries, num_candidates = candidate_QK.shape
    query_n = np.arange(num_queries).repeat(num_candidates)
    score_n = score_pairs(reranker, query, video, query_n=query_n, video_n=candidate_QK.ravel(), max_pairs=max_pairs)
    return score_n.reshape(candidate_QK.shape)


def rerank_texts(
    reranker: Reranker,
    query: Table,
    video: Table,
    candidate_RK: np.ndarray,
    *,
    video_R: np.ndarray,
    max_pairs: int = MAX_PAIRS,
) -> np.ndarray:
    """Scores [R, K] of the videos ``video_R`` with their candidates, which are rows of ``query``."""
    assert len(video_R) == len(candidate_RK)
    video_n = video_R.repeat(candidate_RK.shape[1])
    score_n = score_pairs(reranker, query, video, query_n=candidate_RK.ravel(), video_n=video_n, max_pairs=max_pairs)
    return score_n.reshape(candidate_RK.shape)


def score_pairs(
    reranker: Reranker,
    query: Table,
    video: Table,
    *,
    query_n: np.ndarray,
    video_n: np.ndarray,
    max_pairs: int = MAX_PAIRS,
) -> np.ndarray:
    """Scores [n] of the pairs (``query_n``, ``video_n``), row numbers of both sides, at most ``max_pairs`` at once.

    The Reranker gets half precision as float32 and integers as int64.

    Raises:
        ValueError: rows that do not exist, a column is missing, or scores with NaN or inf.
    """
    assert isinstance(reranker, nn.Module)
    video = {name: video[name] for name in columns_to_read(reranker, video.keys())}
    for side, rows_n, table in (("query", query_n, query), ("video", video_n, video)):
        num_rows = min(len(x) for x in table.values())
        if len(rows_n) and not 0 <= rows_n.min() <= rows_n.max() < num_rows:
            raise ValueError(f"got {side} rows {rows_n.min()}…{rows_n.max()}, wanted 0…{num_rows - 1}")
    if max_pairs < 1:
        raise ValueError(f"got max_pairs={max_pairs}, wanted at least 1")
    device, scores = next(reranker.parameters()).device, [np.zeros(0, np.float32)]
    with torch.inference_mode():
        for start in range(0, len(query_n), max_pairs):
            chunk = slice(start, start + max_pairs)
            sides = (_gather(table, rows[chunk], device) for table, rows in ((query, query_n), (video, video_n)))
            scores.append(at_least_float32(reranker.score(*sides)).cpu().numpy())
    score_n = np.concatenate(scores)
    if num_bad := int((~np.isfinite(score_n)).sum()):
        raise ValueError(f"got {num_bad} scores that are NaN or inf, wanted finite scores; check the model")
    return score_n


def best_first(candidate_QK: np.ndarray, score_QK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores and candidates of each query in falling order of score; equal scores stay in the order given."""
    order_QK = np.argsort(-score_QK, axis=1, kind="stable")
    return np.take_along_axis(score_QK, order_QK, axis=1), np.take_along_axis(candidate_QK, order_QK, axis=1)


def search_two_stage(
    index: ExactIndex,
    reranker: Reranker,
    query_QD: np.ndarray,
    query: Table,
    video: Table,
    *,
    first_stage_k: int,
    max_pairs: int = MAX_PAIRS,
) -> tuple[np.ndarray, np.ndarray]:
    """The ``first_stage_k`` nearest videos of each query, in the Reranker's order -> scores and positions [Q, K]."""
    _, candidate_QK = index.search(query_QD, first_stage_k)
    return best_first(candidate_QK, rerank(reranker, query, video, candidate_QK, max_pairs=max_pairs))


def _gather(table: Table, rows_n: np.ndarray, device: torch.device) -> dict[str, Tensor]:
    """Rows of every column on ``device``; a row that is wanted often is moved once."""
    distinct, place_n = np.unique(rows_n, return_inverse=True)
    is_shared = 2 * len(distinct) <= len(rows_n)
    row_n = torch.from_numpy(distinct if is_shared else rows_n)
    # index_select on the CPU: several times as fast as indexing a NumPy array by rows
    moved = {name: torch.as_tensor(x).index_select(0, row_n).to(device) for name, x in table.items()}
    if is_shared:
        moved = {name: x[torch.from_numpy(place_n).to(device)] for name, x in moved.items()}
    return {name: _widened(x) for name, x in moved.items()}


def _widened(x: Tensor) -> Tensor:
    if x.is_floating_point():
        return at_least_float32(x)
    return x if x.dtype == torch.bool else x.long()
