"""A corpus: what one model tells of every video of a manifest, as a folder that is complete once committed.

``parts/*.parquet`` hold one vector a video, and further columns by choice; ``quarantine/*.parquet`` hold the rejected
samples with reasons; ``manifests/DIGEST.parquet`` is the manifest, for that of the shards is replaced when they are
indexed again; ``_COMMITTED.json`` is written last, and names the files that count. Whatever was killed and run
again: each uid of the manifest is in exactly one of both. A manifest that grew gives a new commit in place of the old.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.columns import VECTOR, Column
from pipelines.manifest import Manifest, load_manifest
from pipelines.ordered import map_on_threads
from pipelines.part_files import NUM_READERS, part_files
from pipelines.parts import (
    FORMAT,
    QUARANTINE_SCHEMA,
    CorpusSpec,
    open_table,
    read_table,
    values_of,
)

COMMITTED = "_COMMITTED.json"


class ChangedError(ValueError):
    """A part is gone, or not as long as it was: the corpus is no longer the one that was opened."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
    """A corpus in memory, in manifest order: ``vectors`` float32 [B, D]."""

    vectors: np.ndarray
    uids: list[str]
    video_ids: list[str]
    shards: list[str]
    keys: list[str]
    meta: dict[str, Any]


def kept_manifest(url: str, digest: str) -> str:
    """Where a corpus keeps the manifest of this digest."""
    return storage.join(url, "manifests", f"{digest}.parquet")


def manifest_of(url: str, meta: Mapping[str, Any], *, manifest: str = "") -> Manifest:
    """The manifest that a corpus was made from; ``manifest`` says where its shards are now, if they were moved.

    Raises:
        ValueError: it isn't there, or is another manifest.
    """
    wanted = meta["manifest_digest"]
    where = manifest or kept_manifest(url, wanted)
    if not manifest and not storage.exists(where):
        raise ValueError(
            f"got no manifest at {where}, wanted the one from which the corpus was made; the same embed_corpus command "
            "keeps it there and embeds nothing again, or say with --manifest where it is"
        )
    found = load_manifest(where)
    if found.digest != wanted:
        raise ValueError(
            f"got manifest {found.digest} at {where}, wanted {wanted}, from which the corpus was made; "
            "give that one with --manifest, or embed the corpus again"
        )
    return found if manifest else dataclasses.replace(found, root=meta["manifest"])


def find_committed(url: str) -> dict[str, Any] | None:
    """Content of ``_COMMITTED.json``, None if it is not there.

    Raises:
        ValueError: it is one of another format, or damaged.
    """
    return read_committed(url) if storage.exists(storage.join(url, COMMITTED)) else None


def parts_digest(names: Sequence[str]) -> str:
    """32 hex digits that name a corpus: its samples, their order and its model."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:32]


def read_committed(url: str) -> dict[str, Any]:
    """Content of ``_COMMITTED.json``.

    Raises:
        ValueError: no complete corpus there, or one of another format.
    """
    marker = storage.join(url, COMMITTED)
    if not storage.exists(marker):
        num_parts = sum(1 for _ in part_files(url))
        state = f"an unfinished corpus of {num_parts} parts without {COMMITTED}" if num_parts else "no corpus"
        raise ValueError(f"got {state} at {url}, wanted a complete one; run python -m jobs.embed_corpus --out {url}")
    meta = json.loads(storage.read_bytes(marker))
    if meta.get("format") != FORMAT:
        raise ValueError(
            f"{marker} has format {meta.get('format')!r}, wanted {FORMAT}; "
            "embed it into a new folder, or delete this one"
        )
    if meta["parts_digest"] != parts_digest(meta["parts"]):
        raise ValueError(f"{marker} was changed after it was written; delete it and embed again")
    return meta


def read_corpus(url: str, *, column: str = VECTOR) -> Corpus:
    """Read a complete corpus, and of its columns one that holds a vector a video.

    Raises:
        ValueError: the corpus is not complete, or has no such column.
    """
    meta = read_committed(url)
    spec = CorpusSpec.from_meta(meta)
    chosen = spec.column(column)
    if len(chosen.shape) != 1 or chosen.kind != "float":
        raise ValueError(f"got the column {chosen}, wanted one with a vector a video")
    names = ("uid", "video_id", "shard", "key")

    def read(name: str) -> tuple[np.ndarray, list[list[str]]]:
        table = read_table(storage.join(url, "parts", f"{name}.parquet"), columns=[*names, *spec.stored_names(chosen)])
        return values_of(table, chosen).astype(np.float32, copy=False), [
            table.column(field).to_pylist() for field in names
        ]

    with ThreadPoolExecutor(NUM_READERS) as pool:
        blocks = list(pool.map(read, meta["parts"]))
    uids, video_ids, shards, keys = ([value for _, lists in blocks for value in lists[i]] for i in range(len(names)))
    vectors = np.concatenate([vector for vector, _ in blocks] or [np.zeros((0, chosen.size), np.float32)])
    return Corpus(vectors=vectors, uids=uids, video_ids=video_ids, shards=shards, keys=keys, meta=meta)


def read_quarantine(url: str) -> pa.Table:
    """All rejected samples of a complete corpus with their reasons, in manifest order.

    Raises:
        ValueError: the corpus is not complete.
    """
    meta = read_committed(url)
    empty = QUARANTINE_SCHEMA.empty_table()
    files = (storage.join(url, "quarantine", f"{name}.parquet") for name in meta["parts"])
    tables = map_on_threads(read_table, files, num_threads=NUM_READERS)
    return pa.concat_tables([empty, *(table.replace_schema_metadata() for table in tables)])


def read_columns(
    url: str, names: Sequence[str], *, rows: np.ndarray | None = None, meta: Mapping[str, Any] | None = None
) -> dict[str, np.ndarray]:
    """Columns of a complete corpus by name, [B, *shape], in manifest order.

    They are in the dtype that they are stored in; what is stored as int8 becomes float32.

    ``rows``, places in that order, chooses videos; then only what holds them is read. ``meta`` is what
    ``read_committed`` told before, so that it need not be read again.

    Raises:
        ValueError: the corpus is not complete, or lacks a column.
        ChangedError: a part is gone or not as long as it was.
    """
    meta = read_committed(url) if meta is None else meta
    spec = CorpusSpec.from_meta(meta)
    columns = [spec.column(name) for name in names]
    edges = np.concatenate([[0], np.cumsum(meta["part_embedded"], dtype=np.int64)])
    rows = np.arange(edges[-1]) if rows is None else np.asarray(rows)
    if len(rows) and not 0 <= rows.min() <= rows.max() < edges[-1]:
        raise ValueError(f"got rows {rows.min()}…{rows.max()}, wanted 0…{edges[-1] - 1}")
    out = {column.name: np.empty((len(rows), *column.shape), spec.given(column)) for column in columns}
    place = np.argsort(rows, kind="stable")
    cuts = np.searchsorted(rows[place], edges)

    def read(i: int) -> None:
        here = place[cuts[i] : cuts[i + 1]]
        file_url = storage.join(url, "parts", f"{meta['parts'][i]}.parquet")
        with _open_part(file_url) as file:
            if file.metadata.num_rows != edges[i + 1] - edges[i]:
                raise ChangedError(f"{file_url} is not as long as it was; run python -m jobs.verify_corpus")
            stored = [name for column in columns for name in spec.stored_names(column)]
            _read_rows(file, columns, stored, rows=rows[here] - edges[i], out=out, place=here)

    with ThreadPoolExecutor(NUM_READERS) as pool:
        list(pool.map(read, np.flatnonzero(np.diff(cuts))))
    return out


def _open_part(file_url: str) -> pq.ParquetFile:
    try:
        return open_table(file_url)
    except FileNotFoundError:
        raise ChangedError(
            f"{file_url} is gone: the corpus has changed; open it again, and build its index again"
        ) from None


def _read_rows(
    file: pq.ParquetFile,
    columns: Sequence[Column],
    stored: Sequence[str],
    *,
    rows: np.ndarray,
    out: dict[str, np.ndarray],
    place: np.ndarray,
) -> None:
    """Sorted ``rows`` of a part to their ``place`` in ``out``, one row group after the other."""
    start = 0
    for group in range(file.num_row_groups):
        stop = start + file.metadata.row_group(group).num_rows
        first, last = np.searchsorted(rows, (start, stop))
        if first < last:
            table = file.read_row_group(group, columns=list(stored))
            for column in columns:
                out[column.name][place[first:last]] = values_of(table, column)[rows[first:last] - start]
        start = stop
