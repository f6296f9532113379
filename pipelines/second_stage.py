"""The second stage of a search over a corpus: what is stored of the candidates, judged by the model that stored it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fpig_core.bundle import Bundle
from fpig_core.retrieval import encode_rerank_queries, reranker_of
from fpig_core.two_stage import best_first, columns_to_read, score_pairs
from pipelines.corpus import read_columns
from pipelines.parts import CorpusSpec

MAX_BYTES = 512 << 20
"""What stands in memory at once of the columns that a second stage reads."""


def read_rerank_columns(
    bundle: Bundle, corpus_url: str, corpus_meta: Mapping[str, Any], *, rows: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """What the model's ``score`` needs of the videos of a corpus, or of its ``rows`` alone: arrays [B, …] by name.

    Raises:
        ValueError: the model reranks nothing, or the corpus lacks a column.
        ChangedError: a part of ``corpus_meta`` is gone.
    """
    return read_columns(corpus_url, _columns(bundle, corpus_meta), rows=rows, meta=corpus_meta)


def rerank_rows(
    bundle: Bundle, corpus_url: str, corpus_meta: Mapping[str, Any], texts: Sequence[str], row_QK: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and rows [Q, K] of each text's candidates in the model's order. Each row is read once.

    Raises:
        ValueError, ChangedError: as ``read_rerank_columns``.
    """
    query = encode_rerank_queries(bundle, texts)
    query_n = np.arange(len(texts)).repeat(row_QK.shape[1])
    distinct, video_n = np.unique(row_QK.ravel(), return_inverse=True)
    score_n = np.empty(row_QK.size, np.float32)
    size = max(1, MAX_BYTES // _row_bytes(bundle, corpus_meta))
    for start in range(0, len(distinct), size):
        video = read_rerank_columns(bundle, corpus_url, corpus_meta, rows=distinct[start : start + size])
        here = np.flatnonzero((start <= video_n) & (video_n < start + size))
        score_n[here] = score_pairs(
            reranker_of(bundle), query, video, query_n=query_n[here], video_n=video_n[here] - start
        )
    return best_first(row_QK, score_n.reshape(row_QK.shape))


def _columns(bundle: Bundle, corpus_meta: Mapping[str, Any]) -> tuple[str, ...]:
    stored = [column.name for column in CorpusSpec.from_meta(corpus_meta).columns]
    return columns_to_read(reranker_of(bundle), stored)


def _row_bytes(bundle: Bundle, corpus_meta: Mapping[str, Any]) -> int:
    spec = CorpusSpec.from_meta(corpus_meta)
    columns = [spec.column(name) for name in _columns(bundle, corpus_meta)]
    return sum(column.size * spec.given(column).itemsize for column in columns)
