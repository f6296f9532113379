"""The files of a corpus: what all of them carry, and the two that each part leaves. ``part_plan`` cuts the parts."""

import dataclasses
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fpig_core.preprocess import Preprocess
from pipelines import storage
from pipelines.columns import VECTOR, Column
from pipelines.int8 import dequantise, quantise
from pipelines.ranges import RangeFile

FORMAT = 4
SAMPLE_FIELDS = [pa.field(name, pa.string()) for name in ("uid", "video_id", "shard", "key")]
QUARANTINE_SCHEMA = pa.schema([(name, pa.string()) for name in ("uid", "shard", "key", "stage", "reason", "detail")])
METADATA_PREFIX = "fpig."
SCALE_SUFFIX = "_scale"
"""Of the column that holds the scales of an int8 column's vectors."""
SHAPE = b"fpig.shape"
"""Metadata of a column of vectors: the shape of one video's value, as JSON."""
MAX_PART_BYTES = 2 << 30
"""A part must fit into the memory of the task that writes it."""
GROUP_BYTES = 16 << 20
"""Size of a row group: what must be read, and stand in memory, to get at one row."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Written:
    """Who wrote a file, for its metadata. It differs between the parts of a corpus that grew or was resumed."""

    manifest_digest: str
    code_revision: str = "unknown"
    mlflow_run_id: str = ""

    def metadata(self) -> dict[bytes | str, bytes | str]:
        return {METADATA_PREFIX + name: value for name, value in vars(self).items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusSpec:
    """What makes two corpora one: every file of a corpus carries these values, whatever manifest it grew with.

    The model computes in ``precision``, its floats are stored as ``dtype``, int8 with a scale for each vector.
    ``columns`` begin with ``vector``.
    """

    model_id: str
    preprocess_digest: str
    columns: tuple[Column, ...]
    precision: Literal["fp32", "bf16"] = "fp32"
    dtype: Literal["float16", "float32", "int8"] = "float16"
    part_rows: int = 256

    def __post_init__(self) -> None:
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"got precision={self.precision!r}, wanted fp32 or bf16")
        if self.dtype not in ("float16", "float32", "int8"):
            raise ValueError(f"got dtype={self.dtype!r}, wanted float16, float32 or int8")
        if self.part_rows < 1:
            raise ValueError(f"got part_rows={self.part_rows}, wanted at least 1")
        names = [column.name for column in self.columns]
        if names[:1] != [VECTOR] or len(self.columns[0].shape) != 1 or len(set(names)) < len(names):
            raise ValueError(f"got the columns {_listed(self.columns)}; wanted vector float[D] first, and each once")
        if scales := {name + SCALE_SUFFIX for name in names} & set(names):
            raise ValueError(f"got the column {scales.pop()}, whose name is that of another column's scales")
        if self.part_rows * self.row_bytes > MAX_PART_BYTES:
            raise ValueError(
                f"got part_rows={self.part_rows} of {self.row_bytes} bytes each, wanted parts of at most "
                f"{MAX_PART_BYTES} bytes; use a part_rows of at most {MAX_PART_BYTES // self.row_bytes}"
            )

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> "CorpusSpec":
        """The spec of a committed corpus."""
        values: dict[str, Any] = {field.name: meta[field.name] for field in dataclasses.fields(cls)}
        values["columns"] = tuple(
            Column(name=column["name"], shape=tuple(column["shape"]), kind=column["kind"])
            for column in values["columns"]
        )
        return cls(**values)

    def column(self, name: str) -> Column:
        """The stored column of this name.

        Raises:
            ValueError: there is none.
        """
        for column in self.columns:
            if column.name == name:
                return column
        raise ValueError(
            f"the corpus has no column {name!r}, only {_listed(self.columns)}; "
            f"embed it into a new folder with --extra-columns {name}"
        )

    def scalar(self, column: Column) -> np.dtype:
        """What a column's numbers are stored as."""
        return np.dtype(self.dtype if column.kind == "float" else np.int32)

    def given(self, column: Column) -> np.dtype:
        """What a column's numbers are before they are stored, and when they are read again."""
        return np.dtype(np.float32) if self.has_scales(column) else self.scalar(column)

    def has_scales(self, column: Column) -> bool:
        """Whether a column is stored with a scale for each of its vectors."""
        return self.dtype == "int8" and column.kind == "float"

    def stored_names(self, column: Column) -> list[str]:
        """The columns of a part's file that hold a column."""
        return [column.name, *([column.name + SCALE_SUFFIX] if self.has_scales(column) else [])]

    @property
    def row_bytes(self) -> int:
        """Bytes of one video's columns, as they are before they are stored."""
        return sum(column.size * self.given(column).itemsize for column in self.columns)

    def identity(self) -> dict[str, str]:
        """Name and value of all that two files of one corpus share."""
        values = {"format": FORMAT} | vars(self) | {"columns": _listed(self.columns)}
        return {name: str(value) for name, value in values.items()}

    @property
    def digest(self) -> str:
        """32 hex digits of the identity: the names of parts begin with it."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:32]

    def schema(self) -> pa.Schema:
        """Columns of a part, with the identity as metadata. An int8 column is followed by that of its scales."""
        fields = []
        for column in self.columns:
            fields.append(_field(column.name, self.scalar(column), column.shape))
            if self.has_scales(column):
                fields.append(_field(column.name + SCALE_SUFFIX, np.dtype(np.float32), column.shape[:-1]))
        return pa.schema([*SAMPLE_FIELDS, *fields], metadata=self._metadata())

    def quarantine_schema(self) -> pa.Schema:
        return QUARANTINE_SCHEMA.with_metadata(self._metadata())

    def _metadata(self) -> dict[bytes | str, bytes | str]:
        return {METADATA_PREFIX + name: value for name, value in self.identity().items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartCount:
    """What became of the samples of one part, which begins at manifest row ``start``."""

    name: str
    start: int
    num_embedded: int
    rejected: Mapping[str, int]

    @property
    def num_rejected(self) -> int:
        return sum(self.rejected.values())


def preprocess_digest(preprocess: Preprocess) -> str:
    """16 hex digits that name how frames were prepared."""
    text = json.dumps(dataclasses.asdict(preprocess), sort_keys=True)
    return hashlib.sha256(f"{len(text)}:{text}\n".encode()).hexdigest()[:16]


def part_bytes(spec: CorpusSpec, sample: pa.Table, values: Mapping[str, np.ndarray], *, written: Written) -> bytes:
    """The Parquet file of a part: one row per embedded sample, ``values[name]`` being [rows, *shape]."""
    arrays = [sample.column(field.name).combine_chunks() for field in SAMPLE_FIELDS]
    for column in spec.columns:
        value = values[column.name]
        assert value.shape == (sample.num_rows, *column.shape), f"{column}: {value.shape}"
        stored = quantise(value) if spec.has_scales(column) else (value.astype(spec.scalar(column), copy=False),)
        arrays += [_array(each) for each in stored]
    table = pa.Table.from_arrays(arrays, schema=_with(spec.schema(), written))
    return _parquet(table, row_group_size=max(1, GROUP_BYTES // spec.row_bytes))


def quarantine_bytes(
    spec: CorpusSpec, sample: pa.Table, why: Mapping[str, Sequence[str]], *, written: Written
) -> bytes:
    """The Parquet file of a part's rejected samples; ``why`` holds their ``stage``, ``reason`` and ``detail``."""
    columns = {name: sample.column(name) for name in ("uid", "shard", "key")}
    columns |= {name: pa.array(list(why[name]), pa.string()) for name in ("stage", "reason", "detail")}
    return _parquet(pa.table(columns, schema=_with(spec.quarantine_schema(), written)))


def _field(name: str, scalar: np.dtype, shape: tuple[int, ...]) -> pa.Field:
    """A column of a part: a plain one for one number a video, else lists of a fixed size."""
    number = pa.from_numpy_dtype(scalar)
    stored = pa.list_(number, math.prod(shape)) if shape else number
    return pa.field(name, stored, metadata={SHAPE: json.dumps(shape)})


def _array(value: np.ndarray) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(value).reshape(-1))
    return flat if value.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, math.prod(value.shape[1:]))


def _with(schema: pa.Schema, written: Written) -> pa.Schema:
    return schema.with_metadata({**(schema.metadata or {}), **written.metadata()})


def read_table(url: str, *, columns: Sequence[str] | None = None) -> pa.Table:
    """A Parquet file of a corpus: the whole of it, or only ``columns``, and then the bytes of the others stay there."""
    if columns is None:
        return pq.read_table(io.BytesIO(storage.read_bytes(url)))
    with open_table(url) as file:
        return file.read(columns=list(columns))


def open_table(url: str) -> pq.ParquetFile:
    """A Parquet file of a corpus, to be read by row groups and columns. Small ones are fetched at once."""
    if storage.size(url) <= GROUP_BYTES:
        return pq.ParquetFile(io.BytesIO(storage.read_bytes(url)))
    return pq.ParquetFile(RangeFile(url), pre_buffer=True)


def read_identity(url: str) -> dict[str, str]:
    """Identity of the corpus that a file belongs to; empty for a file that is not ours."""
    with open_table(url) as file:
        metadata = file.schema_arrow.metadata or {}
    pairs = ((key.decode(), value.decode()) for key, value in metadata.items())
    return {key.removeprefix(METADATA_PREFIX): value for key, value in pairs if key.startswith(METADATA_PREFIX)}


def values_of(table: pa.Table, column: Column) -> np.ndarray:
    """A column as it is given, [rows, *shape]: what has scales becomes float32 again. Not to be written to.

    ``table`` must hold all of the column's ``stored_names``.
    """
    value = _stored(table, column.name, column.shape)
    if value.dtype != np.int8:
        return value
    return dequantise(value, _stored(table, column.name + SCALE_SUFFIX, column.shape[:-1]))


def _stored(table: pa.Table, name: str, shape: tuple[int, ...]) -> np.ndarray:
    array = table.column(name).combine_chunks()
    flat = array.flatten() if pa.types.is_fixed_size_list(array.type) else array
    return flat.to_numpy(zero_copy_only=False).reshape(table.num_rows, *shape)


def _parquet(table: pa.Table, *, row_group_size: int | None = None) -> bytes:
    sink = io.BytesIO()
    # Numbers of vectors hardly repeat: a dictionary of them costs time both ways and saves nothing.
    texts = [field.name for field in table.schema if pa.types.is_string(field.type)]
    options: dict[str, Any] = {"use_dictionary": texts, "row_group_size": row_group_size}
    pq.write_table(table, sink, compression="zstd", **options)
    return sink.getvalue()


def _listed(columns: Sequence[Column]) -> str:
    return ", ".join(map(str, columns))
