"""The manifest: one row per sample of a shard set, and one digest that names the set."""

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from pipelines import storage
from pipelines.manifest_file import join_digests, rows_digest, writing
from pipelines.row_groups import RowGroups

MANIFEST_NAME = "manifest.parquet"

MANIFEST_SCHEMA = pa.schema(
    [
        ("uid", pa.string()),  # unique over the set
        ("shard", pa.string()),  # path relative to the root of the set
        ("shard_bytes", pa.int64()),
        ("key", pa.string()),
        ("video_id", pa.string()),
        ("video_suffix", pa.string()),  # "mp4" or "jpg", without the dot
        ("video_offset", pa.int64()),  # of the video's first byte in the shard; -1 if there is none
        ("video_bytes", pa.int64()),
        ("captions", pa.list_(pa.string())),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("sha256", pa.string()),  # of the video's bytes; "" if they are not all there, or were not read
        ("status", pa.string()),  # "ok" or a reason code
        ("reason", pa.string()),
    ]
)
PROBED_SCHEMA = pa.schema(
    [
        *MANIFEST_SCHEMA,
        ("codec", pa.string()),  # "h264"; of an image its format
        ("width", pa.int32()),  # as stored, not turned upright
        ("height", pa.int32()),
        ("duration_s", pa.float64()),  # of the whole video, also where a segment is cut; null if it does not tell
        ("probe", pa.string()),  # "ok", a reason code of the decode stage, "" if the sample was rejected before
    ]
)


def sample_uid(shard: str, key: str) -> str:
    """32 hex digits that name a sample within its shard set."""
    return hashlib.sha256(f"{shard}\0{key}".encode()).hexdigest()[:32]


def shard_digest(rows: pa.Table) -> str:
    """Digest of the rows of one shard. What probing adds does not count: it follows from the rest."""
    return rows_digest(rows.select(MANIFEST_SCHEMA.names))


def shard_runs(table: pa.Table) -> Iterator[pa.Table]:
    """The rows of one shard after the other."""
    shard = table.column("shard").to_pylist()
    start = 0
    for _, run in itertools.groupby(shard):
        length = sum(1 for _ in run)
        yield table.slice(start, length)
        start += length


def manifest_digest(table: pa.Table) -> str:
    """Digest of the digests of all shards: the same samples in the same places give the same digest."""
    return join_digests(shard_digest(rows) for rows in shard_runs(table))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """A manifest by its place; rows are read when they are asked for, so that it costs nothing to send it to workers.

    Rows follow ``MANIFEST_SCHEMA`` or ``PROBED_SCHEMA``; ``root`` is the folder the shard paths are relative to.
    """

    url: str
    digest: str
    root: str
    stamp: tuple[int, str] = dataclasses.field(default=(0, ""), compare=False)
    """Which object it was when it was found: one written later is not mistaken for it in a cache."""

    @property
    def num_rows(self) -> int:
        return self._groups.num_rows

    @property
    def num_ok(self) -> int:
        """Samples whose status is ok."""
        return self._groups.num_ok

    @property
    def num_captioned(self) -> int:
        """Samples that are ok and have at least one caption, fit for training."""
        return self._groups.num_captioned

    def take(self, rows: Sequence[int] | np.ndarray, *, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows with these numbers, in this order."""
        return self._groups.take(rows, columns=columns)

    def slice(self, start: int, stop: int, *, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows [start, stop)."""
        return self._groups.slice(start, stop, columns=columns)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Some columns of all rows, piece by piece."""
        return self._groups.batches(columns)

    def take_captioned(self, numbers: Sequence[int] | np.ndarray) -> pa.Table:
        """The rows of captioned samples, given by their numbers among these, in this order."""
        return self._groups.take_captioned(numbers)

    def shard_url(self, shard: str) -> str:
        return storage.join(self.root, shard)

    @property
    def table(self) -> pa.Table:
        """All rows at once, for sets that fit into memory."""
        return pa.concat_tables([self._groups.schema.empty_table(), *self.batches(self._groups.schema.names)])

    @property
    def _groups(self) -> RowGroups:
        return _open(self.url, self.digest, self.stamp)


@functools.lru_cache(maxsize=4)
def _open(url: str, digest: str, _stamp: tuple[int, str]) -> RowGroups:
    groups = RowGroups(url)
    if groups.digest != digest:
        raise ValueError(f"got manifest {groups.digest} at {url}, wanted {digest}: it was written anew; start again")
    return groups


def save_manifest(root_url: str, table: pa.Table) -> Manifest:
    """Write ``manifest.parquet`` under ``root_url``; equal tables give equal bytes."""
    with writing(storage.join(root_url, MANIFEST_NAME), table.schema) as writer:
        for rows in shard_runs(table):
            writer.write(rows, digest=shard_digest(rows))
        writer.close()
    return load_manifest(root_url)


def load_manifest(url: str) -> Manifest:
    """Find ``manifest.parquet`` by its own URL or by that of its folder.

    Raises:
        ValueError: there is none, or the file is not a manifest of this version.
    """
    is_file = url.endswith(".parquet")
    file_url, root = (url, storage.parent(url)) if is_file else (storage.join(url, MANIFEST_NAME), url)
    remedy = f"run: python -m jobs.index_shards {root}"
    try:
        groups = RowGroups(file_url)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"got no manifest at {file_url}; {remedy}") from None
    except pa.ArrowException as error:
        raise ValueError(f"got {file_url}, which is no Parquet file ({error}); {remedy}") from None
    if not is_manifest(groups.schema) or not groups.digest:
        names = groups.schema.names
        raise ValueError(f"got {file_url} with columns {names}, wanted a manifest of this version; {remedy}")
    return Manifest(url=file_url, digest=groups.digest, root=root, stamp=groups.stamp)


def is_manifest(schema: pa.Schema) -> bool:
    return schema.equals(MANIFEST_SCHEMA) or schema.equals(PROBED_SCHEMA)
