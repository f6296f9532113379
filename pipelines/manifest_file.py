"""The Parquet file of a manifest: row groups of bounded size, written as the rows come and read one by one.

Neither side ever holds all rows: the writer keeps what does not fill a row group yet, the reader a few row groups.
"""

import contextlib
import hashlib
import json
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.ranges import RangeFile

DIGEST_KEY = b"fpig.manifest_digest"
GROUP_ROWS = 1 << 14
GROUP_BYTES = 16 << 20
_ROW_BYTES = 300  # of all columns but the captions, about


def rows_digest(table: pa.Table) -> str:
    """sha256 over rows in their order, as JSON."""
    digest = hashlib.sha256()
    for batch in table.to_batches(max_chunksize=4096):
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            digest.update(json.dumps(row, ensure_ascii=True, separators=(",", ":")).encode() + b"\n")
    return digest.hexdigest()


def join_digests(digests: Iterable[str]) -> str:
    """One digest of many, in their order."""
    whole = hashlib.sha256()
    for digest in digests:
        whole.update(digest.encode() + b"\n")
    return whole.hexdigest()


class ManifestWriter:
    """Takes the rows of one shard after the other. Equal rows give equal bytes, however they were cut."""

    def __init__(self, path: Path, schema: pa.Schema):
        self._file = pq.ParquetWriter(path, schema, compression="zstd")
        self._schema = schema
        self._waiting: list[pa.Table] = []
        self._room_rows, self._room_bytes = GROUP_ROWS, GROUP_BYTES
        self._digests: list[str] = []

    def write(self, rows: pa.Table, *, digest: str) -> None:
        """Add the rows of one shard, whose ``rows_digest`` is known. A shard without rows changes nothing."""
        if not rows.num_rows:
            return
        self._digests.append(digest)
        rows = rows.cast(self._schema)
        end_bytes = np.cumsum(_row_bytes(rows))
        start = 0
        while start < rows.num_rows:
            before = int(end_bytes[start - 1]) if start else 0
            fit = int(np.searchsorted(end_bytes, before + self._room_bytes, side="right"))
            stop = min(fit, start + self._room_rows)
            if stop == start and not self._waiting:
                stop = start + 1
            if stop > start:
                self._waiting.append(rows.slice(start, stop - start))
                self._room_rows -= stop - start
                self._room_bytes -= int(end_bytes[stop - 1]) - before
            if stop < rows.num_rows:
                self._flush()
            start = stop

    def close(self) -> str:
        """Finish the file -> digest of all rows."""
        self._flush()
        digest = join_digests(self._digests)
        self._file.add_key_value_metadata({DIGEST_KEY.decode(): digest})
        self._file.close()
        return digest

    def _flush(self) -> None:
        if self._waiting:
            # One chunk, for encodings depend on where chunks end.
            self._file.write_table(pa.concat_tables(self._waiting).combine_chunks(), row_group_size=GROUP_ROWS)
        self._waiting = []
        self._room_rows, self._room_bytes = GROUP_ROWS, GROUP_BYTES


def _row_bytes(rows: pa.Table) -> np.ndarray:
    """int64 [rows]: about what each row takes in memory."""
    captions = rows.column("captions").combine_chunks()
    end_letters = np.concatenate([[0], np.cumsum(pc.call_function("binary_length", [captions.flatten()]).fill_null(0))])
    counts = captions.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    stop = np.cumsum(counts)
    return (_ROW_BYTES + end_letters[stop] - end_letters[stop - counts]).astype(np.int64)


@contextlib.contextmanager
def writing(url: str, schema: pa.Schema) -> Iterator[ManifestWriter]:
    """A writer whose file appears at ``url`` when the block ends well; call ``close`` in it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "manifest.parquet"
        yield ManifestWriter(path, schema)
        storage.upload(path, url)


class RowGroups:
    """Rows of a Parquet file by their numbers, through a cache of the last ``max_groups`` row groups used.

    Raises:
        FileNotFoundError: no such object.
        pa.ArrowException: it is no Parquet file.
    """

    def __init__(self, url: str, *, max_groups: int = 8):
        self._file = pq.ParquetFile(RangeFile(url), pre_buffer=True)
        self.schema: pa.Schema = self._file.schema_arrow
        self.metadata: dict[bytes, bytes] = self._file.metadata.metadata or {}
        sizes = [self._file.metadata.row_group(i).num_rows for i in range(self._file.metadata.num_row_groups)]
        self._end = np.cumsum(sizes, dtype=np.int64)
        self._cache: OrderedDict[int, pa.Table] = OrderedDict()
        self._max_groups = max_groups
        self._lock = threading.Lock()

    @property
    def num_rows(self) -> int:
        return self._file.metadata.num_rows

    @property
    def num_groups(self) -> int:
        return len(self._end)

    def slice(self, start: int, stop: int) -> pa.Table:
        """Rows [start, stop)."""
        first, last = np.searchsorted(self._end, [start, max(start, stop - 1)], side="right").tolist()
        if start >= stop:
            return self.schema.empty_table()
        whole = pa.concat_tables([self.group(number) for number in range(first, last + 1)])
        return whole.slice(start - self._start_of(first), stop - start)

    def take(self, rows: Sequence[int] | np.ndarray) -> pa.Table:
        """The rows with these numbers, in this order; each row group is read once."""
        row = np.asarray(rows, dtype=np.int64)
        if not len(row):
            return self.schema.empty_table()
        number = np.searchsorted(self._end, row, side="right")
        order = np.argsort(number, kind="stable")
        parts = []
        for group in np.unique(number).tolist():
            inside = order[number[order] == group]
            parts.append(self.group(group).take(pa.array(row[inside] - self._start_of(group))))
        return pa.concat_tables(parts).take(pa.array(np.argsort(order)))

    def group(self, number: int) -> pa.Table:
        """One row group."""
        with self._lock:
            if number in self._cache:
                self._cache.move_to_end(number)
            else:
                self._cache[number] = self._file.read_row_group(number)
                if len(self._cache) > self._max_groups:
                    self._cache.popitem(last=False)
            return self._cache[number]

    def _start_of(self, number: int) -> int:
        return int(self._end[number - 1]) if number else 0
