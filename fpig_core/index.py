"""Exact nearest vectors by inner product."""

import faiss
import numpy as np
import torch

BLOCK_ROWS = 8_192
DENSE = 0.25
"""A block of vectors of which at least this share is wanted is multiplied as a whole, not copied row by row."""


class ExactIndex:
    """All vectors, searched by brute force: no recall is lost.

    Raises:
        ValueError: vectors that are not a finite [B, D] matrix.
    """

    def __init__(self, vector_BD: np.ndarray) -> None:
        if vector_BD.ndim != 2 or not vector_BD.shape[1]:
            raise ValueError(f"got vectors of shape {vector_BD.shape}, wanted [B, D]")
        if not np.isfinite(vector_BD).all():
            raise ValueError("got vectors with NaN or inf, wanted finite ones; run python -m jobs.verify_corpus")
        self._index = faiss.IndexFlatIP(vector_BD.shape[1])
        self._index.add(np.ascontiguousarray(vector_BD, dtype=np.float32))  # pyright: ignore[reportCallIssue]

    def __len__(self) -> int:
        return self._index.ntotal

    @property
    def dim(self) -> int:
        return self._index.d

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """The vectors of some rows, float32 [rows, D]."""
        return self._stored()[rows]

    def search(self, query_QD: np.ndarray, k: int, *, only: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` best videos of each query, best first -> scores float32 [Q, k], positions int64 [Q, k].

        ``only``, rising positions, leaves all others out. ``k`` is cut to the number of vectors.

        Raises:
            ValueError: queries of another width or not finite, or k < 1.
        """
        query = checked_queries(query_QD, self.dim, k)
        if only is not None:
            return exact_top(query, self._stored(), k, only=only)
        return self._index.search(query, min(k, len(self)))  # pyright: ignore[reportCallIssue]

    def _stored(self) -> np.ndarray:
        """The index's own memory, float32 [B, D]."""
        if not len(self):
            return np.zeros((0, self.dim), np.float32)
        return faiss.rev_swig_ptr(self._index.get_xb(), len(self) * self.dim).reshape(len(self), self.dim)


def checked_queries(query_QD: np.ndarray, dim: int, k: int) -> np.ndarray:
    """Queries as an index takes them, contiguous float32 [Q, D].

    Raises:
        ValueError: queries of another width or not finite, or k < 1.
    """
    if query_QD.ndim != 2 or query_QD.shape[1] != dim:
        raise ValueError(f"got queries of shape {query_QD.shape}, wanted [Q, {dim}]")
    if not np.isfinite(query_QD).all():
        raise ValueError("got queries with NaN or inf, wanted finite ones")
    if k < 1:
        raise ValueError(f"got k={k}, wanted at least 1")
    return np.ascontiguousarray(query_QD, dtype=np.float32)


def exact_top(
    query_QD: np.ndarray, vector_BD: np.ndarray, k: int, *, only: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` best of ``vector_BD``, or of its rows ``only`` (rising), by inner products -> scores, positions [Q, k].

    Vectors of any float type and place, a memory-mapped file among them: blocks of rows are read as they come. ``k`` is
    cut to the number of rows. Equal scores that are found stand in the order of rows.
    """
    num_rows = len(vector_BD) if only is None else len(only)
    k = min(k, num_rows)
    best_score = torch.zeros(len(query_QD), 0)
    best_row = torch.zeros(len(query_QD), 0, dtype=torch.long)
    for start in range(0, len(vector_BD), BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, len(vector_BD))
        row = np.arange(start, stop) if only is None else only[slice(*np.searchsorted(only, (start, stop)))]
        if not len(row):
            continue
        is_dense = len(row) >= DENSE * (stop - start)
        # torch widens half precision three times as fast as NumPy, whose products are the faster ones on AMD.
        block = torch.from_numpy(vector_BD[start:stop] if is_dense else vector_BD[row]).float().numpy()
        score = torch.from_numpy(query_QD @ block.T)
        if is_dense and len(row) < stop - start:
            score = score[:, torch.from_numpy(row - start)]
        score, place = score.topk(min(k, len(row)), dim=1)
        best_score = torch.cat([best_score, score], dim=1)
        best_row = torch.cat([best_row, torch.from_numpy(row)[place]], dim=1)
        best_score, place = best_score.topk(min(k, best_score.shape[1]), dim=1)
        best_row = best_row.gather(1, place)
    score_QK, row_QK = best_score.numpy(), best_row.numpy()
    order_QK = np.lexsort((row_QK, -score_QK))
    return np.take_along_axis(score_QK, order_QK, axis=1), np.take_along_axis(row_QK, order_QK, axis=1)
