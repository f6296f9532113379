"""The manifest: one row per sample of a shard set, and one digest that names the set."""

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.manifest_file import DIGEST_KEY, join_digests, rows_digest, writing

MANIFEST_NAME = "manifest.parquet"
OK = "ok"
VIDEO_SUFFIXES = ("avi", "mkv", "mov", "mp4", "webm")
IMAGE_SUFFIXES = ("jpeg", "jpg", "png", "webp")  # an image is a video of one frame

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
    """``table`` follows ``MANIFEST_SCHEMA``; ``root`` is the folder the shard paths are relative to."""

    table: pa.Table
    digest: str
    root: str

    @property
    def num_rows(self) -> int:
        return self.table.num_rows

    @cached_property
    def ok(self) -> np.ndarray:
        """bool [num_rows]: the samples whose status is ok."""
        return np.asarray(self.table.column("status").to_pylist(), dtype=object) == OK

    @cached_property
    def captioned(self) -> np.ndarray:
        """bool [num_rows]: the samples that are ok and have at least one caption, fit for training."""
        counts = self.table.column("captions").combine_chunks().value_lengths().to_numpy(zero_copy_only=False)
        return self.ok & (counts > 0)

    def shard_url(self, shard: str) -> str:
        return storage.join(self.root, shard)


def save_manifest(root_url: str, table: pa.Table) -> Manifest:
    """Write ``manifest.parquet`` under ``root_url``; equal tables give equal bytes."""
    with writing(storage.join(root_url, MANIFEST_NAME), table.schema) as writer:
        for rows in shard_runs(table):
            writer.write(rows, digest=shard_digest(rows))
        digest = writer.close()
    return Manifest(table=table, digest=digest, root=root_url)


def load_manifest(url: str) -> Manifest:
    """Load ``manifest.parquet`` by its own URL or by that of its folder.

    Raises:
        ValueError: there is none, or the file is not a manifest of this version.
    """
    is_file = url.endswith(".parquet")
    file_url, root = (url, storage.parent(url)) if is_file else (storage.join(url, MANIFEST_NAME), url)
    remedy = f"run: python -m jobs.index_shards {root}"
    try:
        data = storage.read_bytes(file_url)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"got no manifest at {file_url}; {remedy}") from None
    table, digest = _parse(data, file_url, remedy)
    return Manifest(table=table, digest=digest, root=root)


def _parse(data: bytes, url: str, remedy: str) -> tuple[pa.Table, str]:
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
    except pa.ArrowException as error:
        raise ValueError(f"got {url}, which is no Parquet file ({error}); {remedy}") from None
    metadata: dict[bytes, bytes] = file.metadata.metadata or {}
    if not is_manifest(file.schema_arrow) or DIGEST_KEY not in metadata:
        names = file.schema_arrow.names
        raise ValueError(f"got {url} with columns {names}, wanted a manifest of this version; {remedy}")
    return file.read(), metadata[DIGEST_KEY].decode()


def is_manifest(schema: pa.Schema) -> bool:
    return schema.equals(MANIFEST_SCHEMA) or schema.equals(PROBED_SCHEMA)
