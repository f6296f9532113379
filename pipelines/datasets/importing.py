"""From the annotation files of a benchmark to records, with all that is odd about them."""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from pipelines.annotations import Annotations, Problem, Record, find_leaks, one_line
from pipelines.datasets.catalogue import LAYOUTS, Dataset, choose
from pipelines.datasets.entries import Entry
from pipelines.datasets.folder import Folder

SPLITS = ("train", "val", "test")
_FOREIGN_SUFFIXES = {
    *(".3g2", ".3gp", ".asf", ".avi", ".divx", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg"),
    *(".mts", ".ogg", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Imported:
    """Records before their videos are looked for. ``num_videos`` and ``num_captions`` are by split as the files have
    them, before any were held out.
    """

    name: str
    layout: str
    dataset: Dataset
    annotations: Annotations
    num_videos: Mapping[str, int]
    num_captions: Mapping[str, int]
    num_held_out: int


def read_dataset(
    name: str,
    url: str,
    *,
    layout: str = "",
    split_files: Mapping[str, str] | None = None,
    num_held_out: int | None = None,
) -> Imported:
    """Read the annotations of a data set of the catalogue from a folder or URL, in its usual layout if none is named.

    Without a validation split ``num_held_out`` training videos become one, those whose ids have the smallest digests:
    the same ones whatever the order of the files. None: as many as the data set says, a tenth of few.

    Raises:
        ValueError: an unknown data set or layout; files that are missing, or hold something else than the layout says.
    """
    dataset, layout = choose(name, layout)
    chosen = LAYOUTS[layout]
    if split_files and not chosen.is_per_split:
        raise ValueError(f"got --split-files for the layout {layout}, whose files have fixed names: {chosen.files}")
    folder = Folder(url, layout=layout, wanted=chosen.files, split_files=split_files)
    records, problems = collect(chosen.read(folder), is_paragraph=dataset.protocol == "paragraph")
    if not records:
        raise ValueError(f"got no video in the files under {url}, wanted {chosen.files}")
    num_videos = Counter(record.split for record in records)
    num_captions = Counter(dict.fromkeys(num_videos, 0))
    for record in records:
        num_captions[record.split] += len(record.captions)
    if num_held_out is None:
        num_held_out = 0 if "val" in num_videos else min(dataset.num_held_out, num_videos["train"] // 10)
    if num_held_out and "val" in num_videos:
        raise ValueError(f"got --hold-out {num_held_out}, but the files have a validation split of {num_videos['val']}")
    records = hold_out(records, num_held_out)
    problems += find_leaks(records)
    return Imported(
        name=name,
        layout=layout,
        dataset=dataset,
        annotations=Annotations(records, problems),
        num_videos=num_videos,
        num_captions=num_captions,
        num_held_out=num_held_out,
    )


def collect(entries: Iterable[Entry], *, is_paragraph: bool) -> Annotations:
    """One record for each video of each split, in order of first appearance; captions keep their order and number."""
    video_ids: dict[tuple[str, str], str] = {}
    told: dict[tuple[str, str], list[str]] = {}
    problems: list[Problem] = []
    for entry in entries:
        name, video_id = one_line(entry.name), one_line(entry.video_id)
        key = entry.split, name
        if not name or not video_id:
            problems.append(Problem(0, "no_video_name", f"in {entry.split}: {entry.captions}"[:200]))
        elif entry.split not in SPLITS:
            problems.append(Problem(0, "unknown_split", entry.split, name))
        else:
            if key in told:
                problems.append(Problem(0, "duplicate_id", f"in {entry.split}", name))
            video_ids.setdefault(key, video_id)
            told.setdefault(key, []).extend(_captions(entry, problems))
    records = []
    for (split, name), captions in told.items():
        if not captions:
            problems.append(Problem(0, "no_caption", f"in {split}", name))
        if is_paragraph and captions:
            captions = [" ".join(captions)]
        records.append(Record(name, video_ids[split, name], split, tuple(captions), None, None))
    return Annotations(records, problems)


def hold_out(records: list[Record], count: int) -> list[Record]:
    """The records with ``count`` videos of the training split moved to the validation split.

    Raises:
        ValueError: the training split has no more than these.
    """
    training = {record.video_id for record in records if record.split == "train"}
    if not 0 <= count < max(len(training), 1):
        raise ValueError(
            f"got --hold-out {count} of {len(training)} training videos, wanted 0 or more, and fewer than these"
        )
    chosen = set(sorted(training, key=_digest)[:count])
    return [
        record._replace(split="val") if record.split == "train" and record.video_id in chosen else record
        for record in records
    ]


def other_paths(layout: str) -> Callable[[str], Iterator[str]]:
    """What else the file of a video may be called, by what the annotations of a layout call it.

    The name without the suffix of a video, for files that were transcoded; without the folder in front; and what the
    layout adds.
    """
    chosen = LAYOUTS[layout]

    def paths(name: str) -> Iterator[str]:
        yield from chosen.other_names(name)
        bare, dot, suffix = name.rpartition(".")
        stem = bare if dot and f".{suffix.lower()}" in _FOREIGN_SUFFIXES else name
        last = stem.rpartition("/")[2]
        yield from (path for path in dict.fromkeys((stem, last)) if path and path != name)

    return paths


def _captions(entry: Entry, problems: list[Problem]) -> list[str]:
    """The captions that are texts, each on one line."""
    kept = []
    for caption in entry.captions:
        if caption is not None and not isinstance(caption, str):
            problems.append(Problem(0, "bad_caption", f"{caption!r}"[:80], entry.name))
        elif text := one_line(caption):
            kept.append(text)
        else:
            problems.append(Problem(0, "empty_caption", f"in {entry.split}", entry.name))
    return kept


def _digest(video_id: str) -> bytes:
    return hashlib.sha256(video_id.encode("utf-8", "backslashreplace")).digest()
