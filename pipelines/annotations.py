"""Tables of captions: CSV, TSV, JSON lines or Parquet in, one record per video or segment out.

Nothing is dropped in silence: each row that is left out, or kept with a doubt, is a ``Problem``.
"""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.manifest import IMAGE_SUFFIXES, VIDEO_SUFFIXES

PROBLEMS = {
    "no_video_name": "the row names no video: left out",
    "outside_folder": "the video's name leaves the folder of videos: left out",
    "bad_number": "start or end is no number of seconds: left out",
    "bad_segment": "the segment ends before it starts: left out",
    "extra_fields": "the row has more fields than the header: the surplus is left out",
    "empty_caption": "the caption is empty: the video is kept without it",
    "duplicate_row": "the same caption of the same video and segment again: left out",
    "several_splits": "the video is in more than one split: kept in each",
    "bad_split": "the split's name is no plain word: left out",
    "missing_video": "there is no such video: left out",
    "unclear_video": "several videos fit the name: left out",
    "bad_suffix": "the video's suffix is not allowed: left out",
}
NO_SPLIT = "all"
_MAX_FIELD = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of the columns; all but the first may be missing from a table."""

    video: str = "video"
    caption: str = "caption"
    video_id: str = "video_id"
    start: str = "start"
    end: str = "end"
    split: str = "split"


class Record(NamedTuple):
    """One sample to write. ``path`` is relative to the folder of videos; times are in seconds."""

    path: str
    video_id: str
    split: str
    captions: tuple[str, ...]
    start_s: float | None
    end_s: float | None


class Problem(NamedTuple):
    """``row`` counts data rows from 1 (0: not about one row); ``kind`` is a key of ``PROBLEMS``."""

    row: int
    kind: str
    detail: str


class Annotations(NamedTuple):
    records: list[Record]
    problems: list[Problem]


class _Row(NamedTuple):
    path: str
    video_id: str
    split: str
    captions: list[str]
    start_s: float | None
    end_s: float | None


def read_caption_table(url: str, *, columns: Columns = Columns()) -> Annotations:
    """Read a table; rows about the same video, split and segment become one record, in order of first appearance.

    The format follows the suffix: .csv (comma, semicolon or tab), .tsv, .jsonl (captions as text or list), .parquet.

    Raises:
        ValueError: the table cannot be read, or has no column for the videos.
    """
    problems: list[Problem] = []
    captions_of: dict[Record, dict[str, None]] = {}
    for number, fields in enumerate(_rows(url, columns), start=1):
        row = _check(number, fields, columns, problems)
        if row is None:
            continue
        sample = Record(row.path, row.video_id, row.split, (), row.start_s, row.end_s)
        told = captions_of.setdefault(sample, {})
        for caption in row.captions:
            if not caption:
                problems.append(Problem(number, "empty_caption", row.path))
            elif caption in told:
                problems.append(Problem(number, "duplicate_row", f"{row.path}: {caption}"))
            told.setdefault(caption)
    records = [
        sample._replace(captions=tuple(caption for caption in told if caption)) for sample, told in captions_of.items()
    ]
    problems += _leaks(records)
    return Annotations(records, problems)


def match_videos(records: list[Record], names: list[str]) -> Annotations:
    """Keep the records whose video is among ``names`` (paths relative to the folder), found with or without suffix.

    Without suffix the only video is meant, else the only image, whatever lies beside it.
    """
    known = set(names)
    by_stem: dict[str, list[str]] = {}
    for name in names:
        by_stem.setdefault(str(PurePosixPath(name).with_suffix("")), []).append(name)
    kept, problems = [], []
    for record in records:
        found = [record.path] if record.path in known else _meant(by_stem.get(record.path, []))
        if len(found) == 1:
            kept.append(record._replace(path=found[0]))
        else:
            kind = "unclear_video" if found else "missing_video"
            problems.append(Problem(0, kind, " ".join([record.path, *found])))
    return Annotations(kept, problems)


def _meant(names: list[str]) -> list[str]:
    """The videos among files of one stem, for want of any the images, for want of these all."""
    for suffixes in (VIDEO_SUFFIXES, IMAGE_SUFFIXES):
        media = [name for name in names if name.lower().endswith(suffixes)]
        if media:
            return media
    return names


def _rows(url: str, columns: Columns) -> Iterator[Mapping[Any, Any]]:
    suffix = PurePosixPath(url).suffix.lower()
    readers = {".csv": _csv_rows, ".tsv": _csv_rows, ".jsonl": _json_rows, ".parquet": _parquet_rows}
    if suffix not in readers:
        raise ValueError(f"got the table {url}, wanted one of {', '.join(readers)}")
    try:
        data = storage.read_bytes(url)
    except FileNotFoundError:
        raise ValueError(f"got no table at {url}; check the path") from None
    rows = readers[suffix](data, url)
    try:
        for row in rows:
            if columns.video not in row:
                found = ", ".join(map(str, row))
                raise ValueError(f"got columns {found} in {url}, wanted {columns.video!r}; name the column by a flag")
            yield row
    except (csv.Error, json.JSONDecodeError, pa.ArrowException) as error:
        raise ValueError(f"got {url}, which is no sound {suffix} file: {error}") from None


def _text(data: bytes, url: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"got {url} with bytes that are not UTF-8 ({error}); save it as UTF-8") from None


def _csv_rows(data: bytes, url: str) -> Iterator[Mapping[Any, Any]]:
    text = _text(data, url)
    header = text.partition("\n")[0]
    delimiter = "\t" if url.lower().endswith(".tsv") else max(",\t;", key=header.count)
    csv.field_size_limit(_MAX_FIELD)
    yield from csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)


def _json_rows(data: bytes, url: str) -> Iterator[Mapping[Any, Any]]:
    for number, line in enumerate(_text(data, url).split("\n"), start=1):
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"got {url} with a {type(row).__name__} on line {number}, wanted one object a line")
            yield row


def _parquet_rows(data: bytes, url: str) -> Iterator[Mapping[Any, Any]]:
    for batch in pq.ParquetFile(pa.BufferReader(data)).iter_batches():
        yield from batch.to_pylist()


def _check(number: int, fields: Mapping[Any, Any], columns: Columns, problems: list[Problem]) -> _Row | None:
    """The row's values, or None with a problem told."""

    def tell(kind: str, detail: str) -> None:
        problems.append(Problem(number, kind, detail))

    path = _word(fields.get(columns.video))
    if not path:
        return tell("no_video_name", "")
    if path.startswith("/") or ".." in PurePosixPath(path).parts or "\\" in path or "\0" in path:
        return tell("outside_folder", path)
    split = _word(fields.get(columns.split)) or NO_SPLIT
    if not split.replace("-", "").replace("_", "").isalnum():
        return tell("bad_split", split)
    try:
        start_s, end_s = _seconds(fields.get(columns.start)), _seconds(fields.get(columns.end))
    except ValueError as error:
        return tell("bad_number", str(error))
    if end_s is not None and end_s <= (start_s or 0.0):
        return tell("bad_segment", f"{path}: {start_s} to {end_s}")
    if None in fields:
        tell("extra_fields", f"{path}: {fields[None]}")
    caption = fields.get(columns.caption)
    captions = [_word(text) for text in caption] if isinstance(caption, list) else [_word(caption)]
    video_id = _word(fields.get(columns.video_id)) or PurePosixPath(path).stem
    return _Row(path, video_id, split, captions, start_s, end_s)


def _word(value: Any) -> str:
    """A field as one line of text."""
    return "" if value is None else " ".join(str(value).split())


def _seconds(value: Any) -> float | None:
    text = _word(value)
    if not text:
        return None
    seconds = float(text)
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"got {text}, wanted seconds from 0")
    return seconds


def _leaks(records: list[Record]) -> Iterator[Problem]:
    splits_of: dict[str, set[str]] = {}
    for record in records:
        splits_of.setdefault(record.path, set()).add(record.split)
    for path, splits in splits_of.items():
        if len(splits) > 1:
            yield Problem(0, "several_splits", f"{path}: {', '.join(sorted(splits))}")
