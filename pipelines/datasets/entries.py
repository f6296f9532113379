"""What annotation files tell, before it is cleaned and matched with videos."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """One video of one split. ``name`` is what its file is called there; captions stand as told, of any type."""

    split: str
    video_id: str
    name: str
    captions: list[Any]


def gather(rows: Iterable[tuple[str, list[Any]]]) -> dict[str, list[Any]]:
    """All captions of each video, in order of first appearance: for files that hold a caption in each row."""
    told: dict[str, list[Any]] = {}
    for video_id, captions in rows:
        told.setdefault(video_id, []).extend(captions)
    return told


def listed(
    split: str,
    video_ids: Iterable[str],
    captions: dict[str, list[Any]],
    *,
    name_of: Callable[[str], str] = lambda video_id: video_id,
) -> Iterator[Entry]:
    """The entries of a split that is a list of ids; one that stands there again has no captions of its own."""
    seen: set[str] = set()
    for video_id in video_ids:
        yield Entry(split, video_id, name_of(video_id), [] if video_id in seen else captions.get(video_id, []))
        seen.add(video_id)
