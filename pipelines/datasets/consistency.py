"""What was imported against what was published, split by split, and how a result on it is to be measured."""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pipelines import storage
from pipelines.annotations import Problem, Record
from pipelines.datasets.catalogue import PROTOCOLS, Count
from pipelines.datasets.importing import SPLITS, Imported

DATASET_NAME = "_DATASET.json"
"""Beside the shards of a split: which data set it is, under which protocol, and its counts."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitReport:
    """One split: as the annotation files have it, as published (None: nobody tells), and as it is written.

    ``num_to_write`` are the videos with a file, or all of them if nobody looked for files; held-out videos count where
    they went. ``note`` says what does not fit.
    """

    split: str
    num_videos: int
    num_captions: int
    published_videos: int | None
    published_captions: int | None
    num_to_write: int
    note: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Consistency:
    """What holds between annotations, videos and publication. ``problems`` counts them by kind."""

    dataset: str
    layout: str
    protocol: str
    queries: str
    num_held_out: int
    splits: list[SplitReport]
    captions_without_video: int
    videos_without_captions: int
    duplicate_ids: int
    in_several_splits: int
    empty_captions: int

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def compare(
    imported: Imported, *, records: Sequence[Record], problems: Sequence[Problem], num_unnamed: int
) -> Consistency:
    """Count an import: ``records`` are those that are written, ``num_unnamed`` videos are named by none."""
    dataset = imported.dataset
    written = Counter(record.split for record in records)
    kinds = Counter(problem.kind for problem in problems)
    return Consistency(
        dataset=imported.name,
        layout=imported.layout,
        protocol=dataset.protocol,
        queries=PROTOCOLS[dataset.protocol],
        num_held_out=imported.num_held_out,
        splits=[
            _split(split, dataset.published.get(split, Count()), imported, num_to_write=written[split])
            for split in SPLITS
            if split in dataset.published or imported.num_videos.get(split) or written[split]
        ],
        captions_without_video=sum(
            kinds[kind] for kind in ("missing_video", "unclear_video", "bad_suffix", "too_large")
        ),
        videos_without_captions=num_unnamed + kinds["no_caption"],
        duplicate_ids=kinds["duplicate_id"],
        in_several_splits=kinds["several_splits"],
        empty_captions=kinds["empty_caption"] + kinds["bad_caption"],
    )


def write_marks(consistency: Consistency, out_url: str) -> None:
    """Write ``_DATASET.json`` beside the shards of every split that holds any."""
    told = {name: value for name, value in consistency.as_dict().items() if name != "splits"}
    for split in consistency.splits:
        if split.num_to_write:
            mark = json.dumps(told | dataclasses.asdict(split), indent=1, sort_keys=True) + "\n"
            storage.write_bytes(storage.join(out_url, split.split, DATASET_NAME), mark.encode())


def read_mark(split_url: str) -> dict[str, Any]:
    """What ``write_marks`` left beside the shards of a split; empty where they come from elsewhere."""
    url = storage.join(split_url, DATASET_NAME)
    return json.loads(storage.read_bytes(url)) if storage.exists(url) else {}


def _split(split: str, published: Count, imported: Imported, *, num_to_write: int) -> SplitReport:
    num_videos, num_captions = imported.num_videos.get(split, 0), imported.num_captions.get(split, 0)
    notes = [
        f"{abs(found - wanted)} {what} {'missing' if found < wanted else 'more than published'}"
        for what, found, wanted in (
            ("videos", num_videos, published.videos),
            ("captions", num_captions, published.captions),
        )
        if wanted is not None and found != wanted
    ]
    if imported.num_held_out and split in ("train", "val"):
        notes.append(
            f"{imported.num_held_out} held out of train" if split == "val" else f"{imported.num_held_out} moved to val"
        )
    return SplitReport(
        split=split,
        num_videos=num_videos,
        num_captions=num_captions,
        published_videos=published.videos,
        published_captions=published.captions,
        num_to_write=num_to_write,
        note="; ".join(notes),
    )
