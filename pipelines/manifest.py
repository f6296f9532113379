"""The manifest: one row per sample of a shard set, and one digest that names the set."""

import dataclasses
import hashlib
import json
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage

MANIFEST_NAME = "manifest.parquet"
DIGEST_KEY = b"fpig.manifest_digest"
OK = "ok"
VIDEO_SUFFIXES = ("avi", "mkv", "mov", "mp4", "webm")
IMAGE_SUFFIXES = ("jpeg", "jpg", "png", "webp")  # an image is a video of one frame
FRAMES_SUFFIX = "frames"  # frames of a video that was decoded before

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
        ("sha256", pa.string()),  # of the video's bytes; "" if they are not all there
        ("status", pa.string()),  # "ok" or a reason code
        ("reason", pa.string()),
    ]
)


def sample_uid(shard: str, key: str) -> str:
    """32 hex digits that name a sample within its shard set."""
    return hashlib.sha256(f"{shard}\0{key}".encode()).hexdigest()[:32]


def manifest_digest(table: pa.Table) -> str:
    """sha256 over all rows in their order: the same samples in the same places give the same digest."""
    digest = hashlib.sha256()
    for batch in table.to_batches(max_chunksize=4096):
        for row in batch.to_pylist():
            digest.update(json.dumps(list(row.values()), ensure_ascii=True, separators=(",", ":")).encode() + b"\n")
    return digest.hexdigest()


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
    digest = manifest_digest(table)
    metadata = {DIGEST_KEY: digest.encode()}
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(metadata), sink, compression="zstd", row_group_size=1 << 16)
    storage.write_bytes(storage.join(root_url, MANIFEST_NAME), sink.getvalue().to_pybytes())
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
        table = pq.read_table(pa.BufferReader(data))
    except pa.ArrowException as error:
        raise ValueError(f"got {url}, which is no Parquet file ({error}); {remedy}") from None
    metadata: dict[Any, bytes] = table.schema.metadata or {}
    if not table.schema.equals(MANIFEST_SCHEMA) or DIGEST_KEY not in metadata:
        raise ValueError(f"got {url} with columns {table.column_names}, wanted a manifest of this version; {remedy}")
    return table, metadata[DIGEST_KEY].decode()
