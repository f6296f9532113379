"""Tables of captions: one record per video or segment out of their rows.

Nothing is dropped in silence: each row that is left out, or kept with a doubt, is a ``Problem``.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from pipelines import storage
from pipelines.suffixes import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from pipelines.tables import read_rows

PROBLEMS = {
    "no_video_name": "the row names no video: left out",
    "outside_folder": "the video's name leaves the folder of videos: left out",
    "bad_location": "the video's location is no path or URL that can be read here: left out",
    "bad_number": "start or end is no number of seconds: left out",
    "bad_segment": "the segment ends before it starts: left out",
    "extra_fields": "the row has more fields than the header: the surplus is left out",
    "empty_caption": "the caption is empty: the video is kept without it",
    "duplicate_row": "the same caption of the same video and segment again: left out",
    "several_splits": "the video is in more than one split: kept in each",
    "shared_id": "another video has the same video_id: both are kept",
    "duplicate_id": "the same video is listed again in its split: its captions are put together",
    "no_caption": "the files tell no caption of the video: kept without",
    "bad_caption": "the caption is no text: the video is kept without it",
    "unknown_split": "the files put the video into a split that the data set does not have: left out",
    "bad_split": "the split's name is no plain word: left out",
    "missing_video": "there is no such video: left out",
    "unclear_video": "several videos fit the name: left out",
    "bad_suffix": "the video's suffix is not allowed: left out",
    "too_large": "the video is over the limit on bytes: left out",
}
KEPT = (
    *("extra_fields", "empty_caption", "duplicate_row", "several_splits"),
    *("shared_id", "duplicate_id", "no_caption", "bad_caption"),
)
"""Problems that cost no sample."""
NO_SPLIT = "all"


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
    """One sample to write. ``path`` is relative to the folder of videos, or a location; times are in seconds."""

    path: str
    video_id: str
    split: str
    captions: tuple[str, ...]
    start_s: float | None
    end_s: float | None


class Problem(NamedTuple):
    """``row`` counts data rows from 1 (0: not about one row); ``kind``: a key of ``PROBLEMS`` or a reason code."""

    row: int
    kind: str
    detail: str
    video: str = ""

    @property
    def is_loss(self) -> bool:
        """Whether something was left out for it."""
        return self.kind not in KEPT


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


def read_caption_table(url: str, *, columns: Columns = Columns(), locations: bool = False) -> Annotations:
    """Read a table; rows about the same video, split and segment become one record, in order of first appearance.

    The format follows the suffix: .csv (comma, semicolon or tab), .tsv, .jsonl (captions as text or list), .parquet.
    With ``locations`` the videos are named by any path or URL, else by a path that stays below a folder.

    Raises:
        ValueError: the table cannot be read, or has no column for the videos.
    """
    problems: list[Problem] = []
    captions_of: dict[Record, dict[str, None]] = {}
    path_of: dict[str, str] = {}
    for number, fields in enumerate(read_rows(url, required=columns.video), start=1):
        row = _check(number, fields, columns, problems, locations=locations)
        if row is None:
            continue
        if one_line(fields.get(columns.video_id)) and (other := path_of.setdefault(row.video_id, row.path)) != row.path:
            problems.append(Problem(number, "shared_id", f"{row.video_id} is that of {other}", row.path))
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
    problems += find_leaks(records)
    return Annotations(records, problems)


class VideoNames:
    """The videos that lie somewhere, to be found by what a record calls them: with or without suffix.

    Without suffix the only video is meant, else the only image, whatever lies beside it. With ``by_end`` a record may
    tell the last parts of a name alone: ``day/a.mp4``, or ``a``, of ``s3://bucket/day/a.mp4``.
    """

    def __init__(self, names: Iterable[str], *, by_end: bool):
        self._known = set(names)
        self._by_stem: dict[str, list[str]] = {}
        self._by_file: dict[str, list[str]] = {}
        for name in sorted(self._known):
            self._by_stem.setdefault(_stem(name), []).append(name)
            if by_end:
                file = name.rpartition("/")[2]
                for key in dict.fromkeys((file, _stem(file))):
                    self._by_file.setdefault(key, []).append(name)

    def find(self, path: str) -> list[str]:
        """The names that ``path`` can mean: one if it is clear."""
        if path in self._known:
            return [path]
        found = _meant(self._by_stem.get(path, []))
        if found or not self._by_file:
            return found
        tail, near = f"/{path}", self._by_file.get(path.rpartition("/")[2], [])
        found = [name for name in near if f"/{name}".endswith(tail)]
        return found or _meant([name for name in near if f"/{_stem(name)}".endswith(tail)])


def match_videos(
    records: list[Record],
    names: Iterable[str],
    *,
    by_end: bool = False,
    other_paths: Callable[[str], Iterable[str]] = lambda path: (),
) -> Annotations:
    """Keep the records whose video is among ``names``, as ``VideoNames`` finds them.

    ``other_paths`` gives further paths to try, in order, for a record whose own finds nothing.
    """
    known = VideoNames(names, by_end=by_end)
    kept, problems = [], []
    for record in records:
        tries = (found for path in (record.path, *other_paths(record.path)) if (found := known.find(path)))
        found = next(tries, [])
        if len(found) == 1:
            kept.append(record._replace(path=found[0]))
        else:
            kind = "unclear_video" if found else "missing_video"
            problems.append(Problem(0, kind, " ".join(found), record.path))
    return Annotations(kept, problems)


def uncaptioned(names: list[str]) -> list[Record]:
    """A record without captions for every video or image among ``names``."""
    return [
        Record(name, PurePosixPath(name).stem, NO_SPLIT, (), None, None)
        for name in names
        if name.lower().endswith(tuple(f".{suffix}" for suffix in (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES)))
    ]


def _stem(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return f"{folder}{slash}{PurePosixPath(base).stem}"


def _is_location(path: str) -> bool:
    try:
        storage.check_url(path)
    except ValueError:
        return False
    return True


def _meant(names: list[str]) -> list[str]:
    """The videos among files of one stem, for want of any the images, for want of these all."""
    for suffixes in (VIDEO_SUFFIXES, IMAGE_SUFFIXES):
        media = [name for name in names if name.lower().endswith(suffixes)]
        if media:
            return media
    return names


def _check(
    number: int, fields: Mapping[Any, Any], columns: Columns, problems: list[Problem], *, locations: bool
) -> _Row | None:
    """The row's values, or None with a problem told."""
    path = str(fields.get(columns.video) or "").strip()

    def tell(kind: str, detail: str) -> None:
        problems.append(Problem(number, kind, detail, path))

    if not path:
        return tell("no_video_name", "")
    if locations and not _is_location(path):
        return tell("bad_location", path)
    if not locations and (path.startswith("/") or ".." in PurePosixPath(path).parts or "\\" in path or "\0" in path):
        return tell("outside_folder", path)
    split = one_line(fields.get(columns.split)) or NO_SPLIT
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
    captions = [one_line(text) for text in caption] if isinstance(caption, list) else [one_line(caption)]
    video_id = one_line(fields.get(columns.video_id)) or PurePosixPath(path).stem
    return _Row(path, video_id, split, captions, start_s, end_s)


def one_line(value: Any) -> str:
    """A field as one line of text; None is empty."""
    return "" if value is None else " ".join(str(value).split())


def _seconds(value: Any) -> float | None:
    text = one_line(value)
    if not text:
        return None
    seconds = float(text)
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"got {text}, wanted seconds from 0")
    return seconds


def find_leaks(records: Iterable[Record]) -> Iterator[Problem]:
    """A problem for each video that is in several splits."""
    splits_of: dict[str, set[str]] = {}
    for record in records:
        splits_of.setdefault(record.path, set()).add(record.split)
    for path, splits in splits_of.items():
        if len(splits) > 1:
            yield Problem(0, "several_splits", ", ".join(sorted(splits)), path)
