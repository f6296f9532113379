"""Parts of a corpus: how a manifest is cut, how a part is named, and the two files that each part leaves.

A part is a run of consecutive manifest rows. Its name is a digest of the model and of the rows' uids, so that the same
work done twice, by a rerun or by a late writer, lands on the same file with the same content.
"""

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fpig_core.preprocess import Preprocess
from pipelines import storage
from pipelines.manifest import Manifest

EXTRA_COLUMNS = ("vector_unfused", "pseudo_query")
SAMPLE_FIELDS = [pa.field(name, pa.string()) for name in ("uid", "video_id", "shard", "key")]
QUARANTINE_SCHEMA = pa.schema([(name, pa.string()) for name in ("uid", "shard", "key", "stage", "reason", "detail")])
METADATA_PREFIX = "fpig."


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusSpec:
    """What makes two corpora one: every file of a corpus carries these values.

    The model computes in ``precision``, its vectors are stored as ``dtype``.
    """

    model_id: str
    manifest_digest: str
    preprocess_digest: str
    dim: int
    precision: Literal["fp32", "bf16"] = "fp32"
    dtype: Literal["float16", "float32"] = "float16"
    part_rows: int = 256
    extra_columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"got precision={self.precision!r}, wanted fp32 or bf16")
        if self.dtype not in ("float16", "float32"):
            raise ValueError(f"got dtype={self.dtype!r}, wanted float16 or float32")
        if self.part_rows < 1 or self.dim < 1:
            raise ValueError(f"got part_rows={self.part_rows}, dim={self.dim}; both must be at least 1")
        if unknown := [name for name in self.extra_columns if name not in EXTRA_COLUMNS]:
            raise ValueError(f"got extra column {unknown[0]!r}, wanted any of {', '.join(EXTRA_COLUMNS)}")

    @property
    def vector_columns(self) -> tuple[str, ...]:
        return ("vector", *self.extra_columns)

    def identity(self) -> dict[str, str]:
        """Name and value of all that two files of one corpus share."""
        values = dataclasses.asdict(self) | {"extra_columns": ",".join(self.extra_columns)}
        return {name: str(value) for name, value in values.items()}

    def schema(self) -> pa.Schema:
        """Columns of a part, with the identity as metadata."""
        vector = pa.list_(pa.float16() if self.dtype == "float16" else pa.float32(), self.dim)
        fields = [*SAMPLE_FIELDS, *(pa.field(name, vector) for name in self.vector_columns)]
        return pa.schema(fields, metadata=self._metadata())

    def quarantine_schema(self) -> pa.Schema:
        return QUARANTINE_SCHEMA.with_metadata(self._metadata())

    def _metadata(self) -> dict[bytes | str, bytes | str]:
        return {METADATA_PREFIX + name: value for name, value in self.identity().items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """Manifest rows [start, stop) and the file name, without ending, that they share in parts/ and quarantine/."""

    name: str
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def url(self, corpus_url: str) -> str:
        return storage.join(corpus_url, "parts", f"{self.name}.parquet")

    def quarantine_url(self, corpus_url: str) -> str:
        return storage.join(corpus_url, "quarantine", f"{self.name}.parquet")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartCount:
    """What became of the samples of one part."""

    name: str
    num_embedded: int
    rejected: Mapping[str, int]

    @property
    def num_rejected(self) -> int:
        return sum(self.rejected.values())


def preprocess_digest(preprocess: Preprocess) -> str:
    """16 hex digits that name how frames were prepared."""
    return _digest([json.dumps(dataclasses.asdict(preprocess), sort_keys=True)])[:16]


def part_name(model_id: str, uids: Sequence[str]) -> str:
    """32 hex digits that name the vectors of these samples under this model."""
    return _digest([model_id, *uids])[:32]


def plan_parts(manifest: Manifest, model_id: str, *, part_rows: int = 256) -> list[Part]:
    """Cut the manifest into parts of ``part_rows`` rows, the last one shorter, in manifest order."""
    uid = manifest.table.column("uid")
    starts = range(0, manifest.num_rows, part_rows)
    return [
        Part(
            name=part_name(model_id, uid.slice(start, part_rows).to_pylist()),
            start=start,
            stop=min(start + part_rows, manifest.num_rows),
        )
        for start in starts
    ]


def part_bytes(spec: CorpusSpec, sample: pa.Table, vectors: Mapping[str, np.ndarray]) -> bytes:
    """The Parquet file of a part: one row per embedded sample, ``vectors[name]`` being [rows, dim]."""
    columns = [sample.column(field.name).combine_chunks() for field in SAMPLE_FIELDS]
    scalar = np.dtype(spec.dtype)
    for name in spec.vector_columns:
        assert vectors[name].shape == (sample.num_rows, spec.dim), f"{name}: {vectors[name].shape}"
        flat = pa.array(np.ascontiguousarray(vectors[name], dtype=scalar).reshape(-1))
        columns.append(pa.FixedSizeListArray.from_arrays(flat, spec.dim))
    return _parquet(pa.Table.from_arrays(columns, schema=spec.schema()))


def quarantine_bytes(spec: CorpusSpec, sample: pa.Table, why: Mapping[str, Sequence[str]]) -> bytes:
    """The Parquet file of a part's rejected samples; ``why`` holds their ``stage``, ``reason`` and ``detail``."""
    columns = {name: sample.column(name) for name in ("uid", "shard", "key")}
    columns |= {name: pa.array(list(why[name]), pa.string()) for name in ("stage", "reason", "detail")}
    return _parquet(pa.table(columns, schema=spec.quarantine_schema()))


def read_table(url: str, *, columns: Sequence[str] | None = None) -> pa.Table:
    """A whole Parquet file of a corpus."""
    return pq.read_table(io.BytesIO(storage.read_bytes(url)), columns=list(columns) if columns else None)


def read_identity(url: str) -> dict[str, str]:
    """Identity of the corpus that a file belongs to; empty for a file that is not ours."""
    metadata = pq.read_schema(io.BytesIO(storage.read_bytes(url))).metadata or {}
    pairs = ((key.decode(), value.decode()) for key, value in metadata.items())
    return {key.removeprefix(METADATA_PREFIX): value for key, value in pairs if key.startswith(METADATA_PREFIX)}


def vectors_of(table: pa.Table, column: str) -> np.ndarray:
    """A vector column as float32 [rows, D]."""
    array = table.column(column).combine_chunks()
    flat = array.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(array), array.type.list_size).astype(np.float32)


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _digest(values: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for value in values:
        # The length keeps ("ab", "c") and ("a", "bc") apart.
        digest.update(f"{len(value)}:{value}\n".encode())
    return digest.hexdigest()
