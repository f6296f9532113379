"""Read rows of a manifest by their numbers, row group by row group: what stays in memory is bounded.

In memory stand the place of each row group, how many of its samples are captioned, and the row groups used last.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.manifest_file import COUNTS_KEY, DIGEST_KEY, is_captioned
from pipelines.ranges import RangeFile

CACHE_BYTES = 128 << 20

_Columns = Sequence[str] | None
_Found = tuple[np.ndarray, pa.Table, np.ndarray]
"""Positions in what was asked for, the row group in which it lies, places there."""


class RowGroups:
    """The rows of ``manifest.parquet``. ``digest`` is "" of a Parquet file that is no manifest of this version.

    Raises:
        FileNotFoundError: no such object.
        pa.ArrowException: it is no Parquet file.
        ValueError: while reading, the file was replaced by that of other rows.
    """

    def __init__(self, url: str, *, cache_bytes: int = CACHE_BYTES):
        self._url, self._cache_bytes = url, cache_bytes
        self._lock = threading.RLock()
        self._cache: OrderedDict[int, pa.Table] = OrderedDict()
        self._open()

    def _open(self, *, wanted: str | None = None) -> None:
        """Take up the file as it is now; one of another digest than ``wanted`` leaves everything as it was."""
        stamp = storage.stamp(self._url)
        if stamp is None:
            raise FileNotFoundError(self._url)
        file = pq.ParquetFile(RangeFile(self._url), pre_buffer=True)
        about = file.metadata
        metadata: dict[bytes, bytes] = about.metadata or {}
        digest = metadata.get(DIGEST_KEY, b"").decode() if COUNTS_KEY in metadata else ""
        if wanted not in (None, digest):
            raise ValueError(f"the manifest at {self._url} was written anew while it was read; start again")
        self.stamp, self.digest, self._file = stamp, digest, file
        self.schema: pa.Schema = file.schema_arrow
        self.num_rows: int = about.num_rows
        counts = json.loads(metadata.get(COUNTS_KEY, b"[]"))
        self._end = np.cumsum([about.row_group(i).num_rows for i in range(about.num_row_groups)], dtype=np.int64)
        self._end_captioned = np.cumsum([captioned for _, captioned in counts], dtype=np.int64)
        self.num_ok = sum(ok for ok, _ in counts)
        self.num_captioned = sum(captioned for _, captioned in counts)

    @property
    def num_groups(self) -> int:
        return len(self._end)

    def slice(self, start: int, stop: int, *, columns: _Columns = None) -> pa.Table:
        """Rows [start, stop)."""
        parts = [self._schema(columns).empty_table()]
        first = int(np.searchsorted(self._end, start, side="right"))
        while start < min(stop, self.num_rows):
            group_start, group_stop = _start(self._end, first), int(self._end[first])
            rows = self.group(first, columns=columns)
            parts.append(rows.slice(start - group_start, min(stop, group_stop) - start))
            start, first = group_stop, first + 1
        return pa.concat_tables(parts)

    def take(self, rows: Sequence[int] | np.ndarray, *, columns: _Columns = None) -> pa.Table:
        """The rows with these numbers, in this order; each row group is read once."""
        row = np.asarray(rows, dtype=np.int64)
        found = (
            (inside, self.group(number, columns=columns), row[inside] - _start(self._end, number))
            for number, inside in _by_group(self._end, row)
        )
        return _in_order(found, self._schema(columns))

    def batches(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Some columns of all rows, a row group at a time, past the cache."""
        for number in range(self.num_groups):
            yield self._read(number, columns)

    def take_captioned(self, numbers: Sequence[int] | np.ndarray) -> pa.Table:
        """The rows of captioned samples, given by their numbers among these, in this order.

        Each row group is looked at once: finding the rows and then taking them would read twice what the cache drops.
        """
        wanted = np.asarray(numbers, dtype=np.int64)

        def captioned(number: int, inside: np.ndarray) -> _Found:
            rows = self.group(number)
            place = np.flatnonzero(is_captioned(rows))[wanted[inside] - _start(self._end_captioned, number)]
            return inside, rows, place

        return _in_order((captioned(*each) for each in _by_group(self._end_captioned, wanted)), self.schema)

    def group(self, number: int, *, columns: _Columns = None) -> pa.Table:
        """One row group. Only whole ones are kept, for callers want most of their columns."""
        with self._lock:
            if number in self._cache:
                self._cache.move_to_end(number)
            else:
                self._cache[number] = self._read(number, None)
                while len(self._cache) > 1 and sum(rows.nbytes for rows in self._cache.values()) > self._cache_bytes:
                    self._cache.popitem(last=False)
            rows = self._cache[number]
        return rows if columns is None else rows.select(columns)

    def _read(self, number: int, columns: _Columns) -> pa.Table:
        with self._lock:
            if storage.stamp(self._url) != self.stamp:
                self._open(wanted=self.digest)
            return self._file.read_row_group(number, columns=None if columns is None else list(columns))

    def _schema(self, columns: _Columns) -> pa.Schema:
        return self.schema if columns is None else pa.schema([self.schema.field(name) for name in columns])


def _in_order(found: Iterable[_Found], schema: pa.Schema) -> pa.Table:
    """The rows that were found in row groups, as they were asked for."""
    parts, positions = [schema.empty_table()], [np.empty(0, np.int64)]
    for inside, rows, place in found:
        parts.append(rows.take(pa.array(place)))
        positions.append(inside)
    return pa.concat_tables(parts).take(pa.array(np.argsort(np.concatenate(positions))))


def _start(end: np.ndarray, number: int) -> int:
    return int(end[number - 1]) if number else 0


def _by_group(end: np.ndarray, values: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(number of the group, positions in ``values`` of what lies in it), in the order of groups."""
    number = np.searchsorted(end, values, side="right")
    order = np.argsort(number, kind="stable")
    groups, starts = np.unique(number[order], return_index=True)
    yield from zip(groups.tolist(), np.split(order, starts[1:]), strict=False)
