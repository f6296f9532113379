"""Rows of a table that comes from outside: CSV, TSV, JSON lines, Parquet, or plain lines."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage

_MAX_FIELD = 1 << 20


def is_table(url: str) -> bool:
    """Whether the suffix is that of a table."""
    return PurePosixPath(url).suffix.lower() in (*_READERS, ".txt")


def read_rows(url: str, *, required: str) -> Iterator[Mapping[Any, Any]]:
    """The rows, each with the column ``required``; a .txt has that one alone, a value on each line that is not blank.

    Raises:
        ValueError: the table cannot be read, or lacks the column.
    """
    suffix = PurePosixPath(url).suffix.lower()
    if not is_table(url):
        raise ValueError(f"got the table {url}, wanted one of {', '.join(_READERS)}, or .txt for a list")
    try:
        data = storage.read_bytes(url)
    except FileNotFoundError:
        raise ValueError(f"got no table at {url}; check the path") from None
    if suffix == ".txt":
        yield from ({required: line.strip()} for line in decode_text(data, url).splitlines() if line.strip())
        return
    try:
        for row in _READERS[suffix](data, url):
            if required not in row:
                found = ", ".join(map(str, row))
                raise ValueError(f"got columns {found} in {url}, wanted {required!r}; name the column by a flag")
            yield row
    except (csv.Error, json.JSONDecodeError, pa.ArrowException) as error:
        raise ValueError(f"got {url}, which is no sound {suffix} file: {error}") from None


def decode_text(data: bytes, url: str) -> str:
    """UTF-8 with or without a byte order mark.

    Raises:
        ValueError: something else, told with the ``url``.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"got {url} with bytes that are not UTF-8 ({error}); save it as UTF-8") from None


def _csv_rows(data: bytes, url: str) -> Iterator[Mapping[Any, Any]]:
    text = decode_text(data, url)
    header = text.partition("\n")[0]
    delimiter = "\t" if url.lower().endswith(".tsv") else max(",\t;", key=header.count)
    csv.field_size_limit(_MAX_FIELD)
    yield from csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)


def _json_rows(data: bytes, url: str) -> Iterator[Mapping[Any, Any]]:
    for number, line in enumerate(decode_text(data, url).split("\n"), start=1):
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"got {url} with a {type(row).__name__} on line {number}, wanted one object a line")
            yield row


def _parquet_rows(data: bytes, url: str) -> Iterator[Mapping[Any, Any]]:
    for batch in pq.ParquetFile(pa.BufferReader(data)).iter_batches():
        yield from batch.to_pylist()


_READERS = {".csv": _csv_rows, ".tsv": _csv_rows, ".jsonl": _json_rows, ".parquet": _parquet_rows}
