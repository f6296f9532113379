"""Nearest vectors in two stages: a compressed first stage names candidates, which are then scored exactly."""

import faiss
import numpy as np
import torch

from fpig_core.index import checked_queries, exact_top
from fpig_core.index_kinds import WITH_SELECTOR, Effort, Kind, search_parameters

FEW_ROWS = 50_000
"""So few rows are compared exactly instead of being looked for."""
QUERIES_AT_ONCE = 8


class CompressedIndex:
    """A first stage over the rows of ``vector_BD``, which may be a memory-mapped file; scores are those of the vectors.

    The first stage of the kind ``flat`` is None: every vector is compared. ``effort`` may be set anew between searches.
    """

    def __init__(self, kind: Kind, first: faiss.Index | None, vector_BD: np.ndarray, *, effort: Effort) -> None:
        assert (first is None) == (kind == "flat")
        assert first is None or first.ntotal == len(vector_BD), (first.ntotal, len(vector_BD))
        self.kind: Kind = kind
        self.effort = effort
        self._first, self._vector_BD = first, vector_BD

    def __len__(self) -> int:
        return len(self._vector_BD)

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """The vectors of some rows, float32 [rows, D]."""
        return np.asarray(self._vector_BD[rows], np.float32)

    def search(self, query_QD: np.ndarray, k: int, *, only: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` best rows of each query, best first -> scores float32, rows int64, both [Q, min(k, rows)].

        ``only``, rising rows, leaves all others out. Where the first stage names too few of them, or cannot leave rows
        out, each is compared: a condition never costs results.

        Raises:
            ValueError: queries of another width or not finite, or k < 1.
        """
        query = checked_queries(query_QD, self._vector_BD.shape[1], k)
        num_rows = len(self) if only is None else len(only)
        wanted = self.effort.candidates(k)
        if self._first is None or num_rows <= max(wanted, k) or (only is not None and not self._can_select(num_rows)):
            return exact_top(query, self._vector_BD, k, only=only)
        params = search_parameters(self.kind, self.effort, only=only, num_vectors=len(self))
        _, candidate_QK = self._first.search(query, wanted, params=params)  # pyright: ignore[reportCallIssue]
        score_QK, row_QK = self._rescore(query, candidate_QK, k)
        short = np.flatnonzero(row_QK[:, -1] < 0)
        if len(short):
            score_QK[short], row_QK[short] = exact_top(query[short], self._vector_BD, k, only=only)
        return score_QK, row_QK

    def _can_select(self, num_rows: int) -> bool:
        return self.kind in WITH_SELECTOR and num_rows > FEW_ROWS

    def _rescore(self, query_QD: np.ndarray, candidate_QK: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` best candidates by the vectors themselves; −1 is no candidate, and comes last."""
        width, found = self._vector_BD.shape[1], []
        vector_BD = torch.from_numpy(self._vector_BD)
        for start in range(0, len(query_QD), QUERIES_AT_ONCE):
            row_qK = torch.from_numpy(candidate_QK[start : start + QUERIES_AT_ONCE])
            # Rising rows are read front to back, from a file that may not be in memory.
            row_qK = row_qK.sort(dim=1).values
            vector_qKD = vector_BD.index_select(0, row_qK.clamp(min=0).flatten()).float().view(*row_qK.shape, width)
            query_qD1 = torch.from_numpy(query_QD[start : start + QUERIES_AT_ONCE, :, None])
            score_qK = torch.bmm(vector_qKD, query_qD1)[:, :, 0].masked_fill(row_qK < 0, -torch.inf)
            score_qk, place_qk = score_qK.topk(k, dim=1)
            found.append((score_qk, row_qK.gather(1, place_qk)))
        return tuple(torch.cat(each).numpy() for each in zip(*found, strict=True))  # pyright: ignore[reportReturnType]
