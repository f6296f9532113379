"""Build an index from a corpus, part by part: its vectors never stand in memory at once."""

import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa

from fpig_core.compressed_index import CompressedIndex
from fpig_core.index import exact_top
from fpig_core.index_kinds import NUM_TRAINING, Effort, Kind, first_stage, ladder
from pipelines import storage
from pipelines.columns import VECTOR
from pipelines.part_vectors import iter_vectors
from pipelines.parts import CorpusSpec
from pipelines.search_index import CORPUS, FIRST, ROWS, VECTORS, commit_index

BLOCK_ROWS = 16_384
TOP = 10
NUM_TIMED = 32
LONG = ("parts", "part_embedded")
"""What the marker leaves out of the corpus's commit: an entry a part."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """How an effort did: share of the exact top ten that was found, and the time of one query alone."""

    effort: Effort
    recall: float
    ms_per_query: float


def build_index(
    corpus_url: str,
    out_url: str,
    *,
    corpus_meta: Mapping[str, Any],
    kind: Kind,
    rows: pa.Table,
    query_QD: np.ndarray,
    min_recall: float,
    tell: Callable[[Trial], object] = lambda trial: None,
) -> dict[str, Any]:
    """Write the index at ``out_url`` and return its marker. ``rows`` has a row a video, in the order of the corpus.

    Efforts are tried on ``query_QD``, the cheapest first, until recall@10 is at least ``min_recall``.

    Raises:
        ValueError: vectors with NaN or inf, too few of them for this kind, or no effort that reaches ``min_recall``.
    """
    local = storage.local_path(out_url)
    if local is not None:
        Path(local).mkdir(parents=True, exist_ok=True)
        storage.remove_drafts(out_url)
    with tempfile.TemporaryDirectory(dir=local, prefix=".draft-") as place:
        draft = Path(place) / "index"
        draft.mkdir()
        vector_BD = write_vectors(draft / VECTORS, corpus_url, corpus_meta)
        write_rows(draft / ROWS, rows)
        (draft / CORPUS).write_text(json.dumps(dict(corpus_meta)))
        first = None if kind == "flat" else _write_first_stage(draft / FIRST, kind, vector_BD)
        trial = _choose_effort(kind, first, vector_BD, query_QD, min_recall=min_recall, tell=tell)
        meta = {
            "kind": kind,
            "effort": dataclasses.asdict(trial.effort),
            "recall_at_10": trial.recall,
            "ms_per_query": trial.ms_per_query,
            "num_vectors": len(vector_BD),
            "dim": vector_BD.shape[1],
            "corpus": storage.absolute(corpus_url),
            "corpus_meta": {name: value for name, value in corpus_meta.items() if name not in LONG},
        }
        return commit_index(out_url, draft, meta)


def write_vectors(path: Path, corpus_url: str, corpus_meta: Mapping[str, Any]) -> np.ndarray:
    """The vectors of a corpus as one NumPy file in the dtype they are read in -> that file, mapped into memory.

    Raises:
        ValueError: vectors with NaN or inf, or a part that is not as long as it was.
    """
    spec = CorpusSpec.from_meta(corpus_meta)
    column, num_rows = spec.column(VECTOR), sum(corpus_meta["part_embedded"])
    if not num_rows:
        raise ValueError(f"the corpus at {corpus_url} holds no video: there is nothing to index")
    out = np.lib.format.open_memmap(path, mode="w+", dtype=spec.given(column), shape=(num_rows, column.size))
    start = 0
    for vector in iter_vectors(corpus_url, corpus_meta):
        out[start : start + len(vector)] = vector
        start += len(vector)
    out.flush()
    return np.load(path, mmap_mode="c", allow_pickle=False)


def write_rows(path: Path, rows: pa.Table) -> None:
    """An Arrow file that can be mapped: nothing in it is compressed, and columns are in one piece."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, rows.schema) as writer:
        writer.write_table(rows.combine_chunks())


def _write_first_stage(path: Path, kind: Kind, vector_BD: np.ndarray) -> faiss.Index:
    first = first_stage(kind, vector_BD.shape[1], len(vector_BD))
    chosen = np.random.default_rng(0).permutation(len(vector_BD))[:NUM_TRAINING]
    first.train(vector_BD[np.sort(chosen)].astype(np.float32))  # pyright: ignore[reportCallIssue]
    for block in _blocks(vector_BD):
        first.add(block)  # pyright: ignore[reportCallIssue]
    faiss.write_index(first, str(path))
    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)


def _blocks(vector_BD: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(vector_BD), BLOCK_ROWS):
        yield vector_BD[start : start + BLOCK_ROWS].astype(np.float32)


def _choose_effort(
    kind: Kind,
    first: faiss.Index | None,
    vector_BD: np.ndarray,
    query_QD: np.ndarray,
    *,
    min_recall: float,
    tell: Callable[[Trial], object],
) -> Trial:
    score_QK, _ = exact_top(query_QD, vector_BD, TOP)
    efforts: Sequence[Effort] = [Effort(num_candidates=TOP)] if first is None else ladder(kind, len(vector_BD))
    trials = []
    for effort in efforts:
        index = CompressedIndex(kind, first, vector_BD, effort=effort)
        trial = Trial(effort=effort, recall=_recall(index, query_QD, score_QK), ms_per_query=_ms(index, query_QD))
        tell(trial)
        trials.append(trial)
        if trial.recall >= min_recall:
            return trial
    best = max(trials, key=lambda trial: trial.recall)
    raise ValueError(
        f"the kind {kind} reached recall@10 {best.recall:.3f} of its queries at {best.effort}, wanted {min_recall}; "
        "take another kind (flat is exact), or a lower --min-recall"
    )


def _recall(index: CompressedIndex, query_QD: np.ndarray, best_QK: np.ndarray) -> float:
    """Share of the exact top that is found. A video that scores as the last of them counts: of equals any will do."""
    score_QK, _ = index.search(query_QD, TOP)
    tolerance = 1e-5 * np.abs(best_QK).max()
    return float((score_QK >= best_QK[:, -1:] - tolerance).mean())


def _ms(index: CompressedIndex, query_QD: np.ndarray) -> float:
    timed = query_QD[:NUM_TIMED]
    start = time.perf_counter()
    for i in range(len(timed)):
        index.search(timed[i : i + 1], TOP)
    return 1000 * (time.perf_counter() - start) / len(timed)
