"""What is to be written: records and where their videos lie, in a folder, in a list of locations or in the table."""

from collections.abc import Callable, Iterable
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
    """Match a table of captions and videos, and ask the size of every video that is to be written.

    ``videos`` is a folder, or a table with a location (path or URL) in ``list_column`` of every row; without it the
    rows of ``captions`` tell the locations themselves. Without ``captions`` every video is a sample. Relative
    locations start at the current folder.

    Raises:
        ValueError: a table cannot be read, or nothing is left to write.
    """
    if not videos and not captions:
        raise ValueError("got neither videos nor captions; give a folder, a list of locations or a table")
    table = read_caption_table(captions, columns=columns, locations=not is_folder(videos)) if captions else None
    return match_sources(videos, table, told_by=captions, list_column=list_column, limits=limits)


def match_sources(
    videos: str,
    annotations: Annotations | None,
    *,
    told_by: str,
    by_end: bool = False,
    with_images: bool = True,
    other_paths: Callable[[str], Iterable[str]] = lambda path: (),
    list_column: str = "video",
    limits: VideoLimits = VideoLimits(),
) -> Found:
    """The same for annotations that were read before; None makes every video a sample. ``told_by``: where they stand.

    ``by_end`` finds the videos of a folder by the last parts of their names, as it is always done in lists; without
    ``with_images`` no image is taken for a video; ``other_paths`` is that of ``match_videos``.

    Raises:
        ValueError: the list cannot be read, or nothing is left to write.
    """
    stamps: dict[str, tuple[int, str]] = {}
    if is_folder(videos):
        stamps = {storage.relative(url, videos): stamp for url, stamp in storage.list_stamps(videos).items()}
    names = list(stamps) if is_folder(videos) else _locations(videos, list_column) if videos else []
    names = [name for name in names if with_images or suffix_of(name) not in IMAGE_SUFFIXES]
    records, problems = annotations or Annotations(uncaptioned(names), [])
    num_told, problems = len(records), list(problems)
    if videos and annotations:
        by_end = by_end or not is_folder(videos)
        records, unmatched = match_videos(records, names, by_end=by_end, other_paths=other_paths)
        problems += unmatched
    if not is_folder(videos):
        stamps = _stat({record.path for record in records if suffix_of(record.path) in ALLOWED})
    sources = []
    for record in records:
        kind = _refusal(record, stamps, limits)
        if kind:
            problems.append(Problem(0, kind, "", record.path))
            continue
        url = storage.join(videos, record.path) if is_folder(videos) else record.path
        sources.append(Source(record, storage.absolute(url), *stamps[record.path]))
    if not sources:
        lost = f"{num_told} records" + (f" and {len(names)} files" if videos else "")
        raise ValueError(
            f"got {lost} from {' and '.join(filter(None, (videos, told_by)))}, and no video or image for any record; "
            "check the folder or list, and the names of the files"
        )
    named = {record.path for record in records}
    return Found(sources, problems, sum(suffix_of(name) in ALLOWED for name in set(names) - named))


def is_folder(videos: str) -> bool:
    """Whether ``videos`` names a folder, and not a list."""
    return bool(videos) and not is_table(videos)


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
