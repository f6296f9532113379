"""What is to be written: records and where their videos lie, in a folder, in a list of locations or in the table."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from pipelines import storage
from pipelines.annotations import Annotations, Columns, Problem, Record, match_videos, read_caption_table, uncaptioned
from pipelines.limits import VideoLimits
from pipelines.suffixes import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from pipelines.tables import is_table, read_rows

ALLOWED = (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES)
_NUM_STATS = 32


class Source(NamedTuple):
    """A record and its video. ``mark`` changes when the video's content does."""

    record: Record
    url: str
    num_bytes: int
    mark: str

    @property
    def suffix(self) -> str:
        return suffix_of(self.record.path)


class Found(NamedTuple):
    """``num_unnamed``: videos of the folder or list that no row names."""

    sources: list[Source]
    problems: list[Problem]
    num_unnamed: int


def find_sources(
    videos: str,
    captions: str,
    *,
    columns: Columns = Columns(),
    list_column: str = "video",
    limits: VideoLimits = VideoLimits(),
) -> Found:
    """Match captions and videos, and ask the size of every video that is to be written.

    ``videos`` is a folder, or a table with a location (path or URL) in ``list_column`` of every row; without it the
    rows of ``captions`` tell the locations themselves. Without ``captions`` every video is a sample. Relative
    locations start at the current folder.

    Raises:
        ValueError: a table cannot be read, or nothing is left to write.
    """
    if not videos and not captions:
        raise ValueError("got neither videos nor captions; give a folder, a list of locations or a table")
    is_folder = bool(videos) and not is_table(videos)
    table = read_caption_table(captions, columns=columns, locations=not is_folder) if captions else Annotations([], [])
    if is_folder:
        listed = storage.list_stamps(videos)
        stamps = {storage.relative(url, videos): stamp for url, stamp in listed.items()}
        names = list(stamps)
    else:
        stamps = {}
        names = _locations(videos, list_column) if videos else []
    records, problems = table.records, list(table.problems)
    if videos:
        every = Annotations(uncaptioned(names), [])
        records, unmatched = match_videos(records, names, by_end=not is_folder) if captions else every
        problems += unmatched
    if not is_folder:
        stamps = _stat({record.path for record in records if suffix_of(record.path) in ALLOWED})
    sources = []
    for record in records:
        kind = _refusal(record, stamps, limits)
        if kind:
            problems.append(Problem(0, kind, "", record.path))
            continue
        url = storage.join(videos, record.path) if is_folder else record.path
        sources.append(Source(record, storage.absolute(url), *stamps[record.path]))
    if not sources:
        lost = f"{len(table.records)} records and {len(names)} files" if videos else f"{len(table.records)} records"
        raise ValueError(
            f"got {lost} from {' and '.join(filter(None, (videos, captions)))}, and no video or image for any record; "
            "check the folder or list, and the column of file names"
        )
    named = {record.path for record in records}
    return Found(sources, problems, sum(suffix_of(name) in ALLOWED for name in set(names) - named))


def suffix_of(path: str) -> str:
    base = path.rpartition("/")[2]
    return base.rpartition(".")[2].lower() if "." in base[1:] else ""


def _locations(url: str, column: str) -> list[str]:
    """The different locations of a list, in order."""
    names = [str(row[column] or "").strip() for row in read_rows(url, required=column)]
    for name in names:
        if name:
            storage.check_url(name)
    return list(dict.fromkeys(filter(None, names)))


def _stat(locations: Iterable[str]) -> dict[str, tuple[int, str]]:
    """Size and mark of those locations that exist."""
    names = sorted(locations)
    with ThreadPoolExecutor(_NUM_STATS) as pool:
        found = pool.map(storage.stamp, names)
        return {name: stamp for name, stamp in zip(names, found, strict=True) if stamp is not None}


def _refusal(record: Record, stamps: dict[str, tuple[int, str]], limits: VideoLimits) -> str:
    """Why a record is not written, "" if it is."""
    if suffix_of(record.path) not in ALLOWED:
        return "bad_suffix"
    if record.path not in stamps:
        return "missing_video"
    return "too_large" if stamps[record.path][0] > limits.max_bytes else ""
