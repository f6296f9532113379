"""Search by text, or by a video, over a corpus or over an index of one.

searcher = Searcher.open("runs/demo/corpus", bundle=load_bundle("runs/demo/train/model"))
for found in searcher.search(["a red square moves left"], top=5)[0]:
    print(found.rank, found.score, found.video_id, found.captions)
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from fpig_core.bundle import Bundle
from fpig_core.index import ExactIndex
from fpig_core.retrieval import encode_queries
from pipelines.corpus import manifest_of, read_committed, read_corpus
from pipelines.filters import Condition, filterable, matching_rows
from pipelines.search_index import is_index, open_index, read_marker
from pipelines.search_rows import SAMPLE_COLUMNS, find_row, rows_of
from pipelines.second_stage import rerank_rows


class VectorIndex(Protocol):
    """Nearest vectors, exact or nearly so."""

    def __len__(self) -> int: ...

    def search(self, query_QD: np.ndarray, k: int, *, only: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Scores and rows [Q, K ≤ k], best first, of all vectors or of the rows ``only``."""
        ...

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """The vectors of some rows, float32 [rows, D]."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """A video found. ``score`` is the inner product of the vectors, or what the model's second stage gave."""

    rank: int
    score: float
    uid: str
    video_id: str
    shard: str
    key: str
    start_s: float | None
    end_s: float | None
    captions: tuple[str, ...]
    metadata: dict[str, Any]


def corpus_of(url: str) -> tuple[str, dict[str, Any]]:
    """Where a corpus is and what it tells of itself, or the corpus that an index was built from.

    Raises:
        ValueError: neither is complete there.
    """
    if not is_index(url):
        return url, read_committed(url)
    marker = read_marker(url)
    return marker["corpus"], marker["corpus_meta"]


class Searcher:
    """Finds videos of one corpus, with the model that embedded it. Open one with ``open``; threads may share it.

    ``meta`` is what the corpus tells of itself, ``columns`` what conditions can be on, with what each column holds.
    """

    def __init__(
        self,
        *,
        bundle: Bundle,
        index: VectorIndex,
        rows: pa.Table,
        corpus_url: str,
        meta: Mapping[str, Any],
        read_commit: Callable[[], Mapping[str, Any]],
    ) -> None:
        if bundle.model_id != meta["model_id"]:
            raise ValueError(
                f"got model {bundle.model_id}, wanted {meta['model_id']}, which embedded these videos: vectors of two "
                "models do not compare; give that model, or embed the videos with this one"
            )
        if not len(index):
            raise ValueError(f"the corpus at {corpus_url} holds no video: all samples of its manifest were rejected")
        assert rows.num_rows == len(index), (rows.num_rows, len(index))
        self.model_id, self.num_videos, self.meta = bundle.model_id, len(index), dict(meta)
        self.columns = filterable(rows.schema)
        self._bundle, self._index, self._rows = bundle, index, rows
        self._corpus_url, self._read_commit = corpus_url, read_commit

    @classmethod
    def open(cls, url: str, *, bundle: Bundle, manifest: str = "") -> "Searcher":
        """Over an index, whose files are mapped into memory, or over a corpus, whose vectors are read into it.

        ``manifest`` says where a corpus's manifest is, by default where it was when the corpus was made. An index has
        taken from it what it needs.

        Raises:
            ValueError: nothing complete there, something of another model or without videos, or not its manifest.
        """
        if is_index(url):
            opened = open_index(url)
            return cls(
                bundle=bundle,
                index=opened.index,
                rows=opened.rows,
                corpus_url=opened.meta["corpus"],
                meta=opened.meta["corpus_meta"],
                read_commit=opened.read_commit,
            )
        corpus = read_corpus(url)
        return cls(
            bundle=bundle,
            index=ExactIndex(corpus.vectors),
            rows=rows_of(manifest_of(url, corpus.meta, manifest=manifest), corpus.uids),
            corpus_url=url,
            meta=corpus.meta,
            read_commit=lambda: corpus.meta,
        )

    def search(
        self, queries: Sequence[str], *, top: int = 10, where: Sequence[Condition] = (), rerank_top: int = 0
    ) -> list[list[Found]]:
        """The ``top`` best videos for each query, fewer where fewer meet the conditions.

        With ``rerank_top`` the model's second stage judges that many of the best once more.

        Raises:
            ValueError: an empty query, top < 1, 0 < rerank_top < top, a condition on a column that is not there, or
                ``rerank_top`` where the model or the corpus has no second stage.
            ChangedError: candidates of the second stage are no longer in the corpus.
        """
        if any(not query.strip() for query in queries):
            raise ValueError("got an empty query; say in words what the video shows")
        if top < 1:
            raise ValueError(f"got top={top}, wanted at least 1")
        if rerank_top and rerank_top < top:
            raise ValueError(f"got rerank_top={rerank_top}, wanted 0, or at least top={top}")
        if not queries:
            return []
        score_QK, row_QK = self._nearest(encode_queries(self._bundle, queries), rerank_top or top, where)
        if rerank_top and row_QK.size:
            score_QK, row_QK = rerank_rows(self._bundle, self._corpus_url, self._commit, queries, row_QK)
        return [self._found(score_K[:top], row_K[:top]) for score_K, row_K in zip(score_QK, row_QK, strict=True)]

    def like(self, uid: str, *, top: int = 10, where: Sequence[Condition] = ()) -> list[Found]:
        """The videos most like this one, which is named by its uid or video_id, without itself.

        Raises:
            ValueError: no such video, several segments of this video_id, top < 1, or a condition that cannot be met.
        """
        if top < 1:
            raise ValueError(f"got top={top}, wanted at least 1")
        own = find_row(self._rows, uid)
        score_1K, row_1K = self._nearest(self._index.vectors(np.array([own])), top + 1, where)
        is_other = row_1K[0] != own
        return self._found(score_1K[0, is_other][:top], row_1K[0, is_other][:top])

    @functools.cached_property
    def _commit(self) -> Mapping[str, Any]:
        """What the corpus told of its parts when it was opened, or indexed. They are named by what they hold: one that
        grew since keeps them."""
        return self._read_commit()

    def _nearest(self, query_QD: np.ndarray, k: int, where: Sequence[Condition]) -> tuple[np.ndarray, np.ndarray]:
        only = matching_rows(self._rows, where) if where else None
        return self._index.search(query_QD, k, only=only)

    def _found(self, score_K: np.ndarray, row_K: np.ndarray) -> list[Found]:
        found = []
        for rank, (score, row) in enumerate(zip(score_K, self._rows.take(row_K).to_pylist(), strict=True), start=1):
            sample = {name: row.pop(name) for name in SAMPLE_COLUMNS}
            sample["captions"] = tuple(sample["captions"] or ())
            found.append(Found(rank=rank, score=float(score), **sample, metadata=row))
        return found
