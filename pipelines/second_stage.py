"""The second stage of a search over a corpus: what is stored of the candidates, judged by the model that stored it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fpig_core.bundle import Bundle
from fpig_core.retrieval import encode_rerank_queries, reranker_of
from fpig_core.two_stage import best_first, columns_to_read, rerank
from pipelines.corpus import read_columns
from pipelines.parts import CorpusSpec


def read_rerank_columns(
    bundle: Bundle, corpus_url: str, corpus_meta: Mapping[str, Any], *, rows: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """What the model's ``score`` needs of the videos of a corpus, or of its ``rows`` alone: arrays [B, …] by name.

    Raises:
        ValueError: the model reranks nothing, the corpus lacks a column, or a part of ``corpus_meta`` is gone.
    """
    stored = [column.name for column in CorpusSpec.from_meta(corpus_meta).columns]
    return read_columns(corpus_url, columns_to_read(reranker_of(bundle), stored), rows=rows, meta=corpus_meta)


def rerank_rows(
    bundle: Bundle, corpus_url: str, corpus_meta: Mapping[str, Any], texts: Sequence[str], row_QK: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and rows [Q, K] of each text's candidates in the model's order. Each row is read once.

    Raises:
        ValueError: as ``read_rerank_columns``.
    """
    distinct, place = np.unique(row_QK, return_inverse=True)
    place_QK = place.reshape(row_QK.shape)
    video = read_rerank_columns(bundle, corpus_url, corpus_meta, rows=distinct)
    score_QK = rerank(reranker_of(bundle), encode_rerank_queries(bundle, texts), video, place_QK)
    return best_first(row_QK, score_QK)
