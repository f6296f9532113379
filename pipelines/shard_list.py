"""The tars of a shard set as the store lists them, in order: about the bytes of its name and mark are kept of each."""

import itertools
from collections.abc import Iterator

import pyarrow as pa

from pipelines import storage
from pipelines.shard_state import Stamp

_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz")
_AT_ONCE = 4096
_SCHEMA = pa.schema([("shard", pa.string()), ("num_bytes", pa.int64()), ("mark", pa.string())])


class ShardList:
    """(path relative to the root, what tells whether it has changed) of each shard, in the order of paths."""

    def __init__(self, root_url: str):
        found = _found(root_url)
        batches, last, is_sorted = [], "", True
        while rows := sorted(itertools.islice(found, _AT_ONCE)):
            is_sorted = is_sorted and last <= rows[0][0]
            last = rows[-1][0]
            batches.append(pa.record_batch([list(column) for column in zip(*rows, strict=True)], schema=_SCHEMA))
        table = pa.Table.from_batches(batches, _SCHEMA)
        # S3 lists in order; sorting takes three times the memory.
        self._table = table if is_sorted else table.sort_by("shard")

    def __len__(self) -> int:
        return self._table.num_rows

    def __iter__(self) -> Iterator[tuple[str, Stamp]]:
        for batch in self._table.to_batches(max_chunksize=_AT_ONCE):
            columns = (column.to_pylist() for column in batch.columns)
            for shard, num_bytes, mark in zip(*columns, strict=True):
                yield shard, Stamp(num_bytes, mark)


def find_shards(root_url: str) -> Iterator[str]:
    """Paths of all tars under the root, relative to it, in no order; compressed ones too, to be reported."""
    return (shard for shard, _, _ in _found(root_url))


def _found(root_url: str) -> Iterator[tuple[str, int, str]]:
    for url, (num_bytes, mark) in storage.iter_stamps(root_url):
        if url.endswith(_TAR_SUFFIXES):
            yield storage.relative(url, root_url), num_bytes, mark
