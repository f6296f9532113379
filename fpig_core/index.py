"""Exact nearest vectors by inner product."""

import faiss
import numpy as np


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

    def search(self, query_QD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` best videos of each query, best first -> scores float32 [Q, k], positions int64 [Q, k].

        ``k`` is cut to the number of vectors.

        Raises:
            ValueError: queries of another width or not finite, or k < 1.
        """
        if query_QD.ndim != 2 or query_QD.shape[1] != self._index.d:
            raise ValueError(f"got queries of shape {query_QD.shape}, wanted [Q, {self._index.d}]")
        if not np.isfinite(query_QD).all():
            raise ValueError("got queries with NaN or inf, wanted finite ones")
        if k < 1:
            raise ValueError(f"got k={k}, wanted at least 1")
        query = np.ascontiguousarray(query_QD, dtype=np.float32)
        return self._index.search(query, min(k, len(self)))  # pyright: ignore[reportCallIssue]
