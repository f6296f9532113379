"""The data sets that can be imported, with the layouts their annotations come in and the counts that were published."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

from pipelines.datasets import activitynet, didemo, lsmdc, msrvtt, msvd, per_split, vatex
from pipelines.datasets.entries import Entry
from pipelines.datasets.folder import Folder

Protocol = Literal["single", "multi-sentence", "paragraph"]
PROTOCOLS: dict[Protocol, str] = {
    "single": "one caption a video is a query",
    "multi-sentence": "every caption is a query",
    "paragraph": "all captions of a video, joined by a space, are one query",
}
NUM_HELD_OUT = 500
"""Training videos that become the validation split where none was published; MSR-VTT's own has 497."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """How annotation files lie in a folder. ``files`` says which, for people."""

    files: str
    read: Callable[[Folder], Iterator[Entry]]
    other_names: Callable[[str], Iterable[str]] = lambda name: ()
    """Further names that the video of an entry may have."""
    is_per_split: bool = False
    """Whether the user can name the file of each split."""


class Count(NamedTuple):
    """Videos and captions of a split as published; None where nobody tells."""

    videos: int | None = None
    captions: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """A benchmark under one protocol. ``layouts``: names of ``LAYOUTS``, the usual one first."""

    about: str
    protocol: Protocol
    layouts: tuple[str, ...]
    published: Mapping[str, Count] = dataclasses.field(default_factory=dict)
    num_held_out: int = 0
    """Training videos to hold out for validation, if the files hold no validation split."""


LAYOUTS: dict[str, Layout] = {
    "msrvtt-9k": Layout(
        files="MSRVTT_data.json, MSRVTT_train.9k.csv, MSRVTT_JSFUSION_test.csv",
        read=functools.partial(msrvtt.read_jsfusion, train="MSRVTT_train.9k.csv"),
    ),
    "msrvtt-7k": Layout(
        files="MSRVTT_data.json, MSRVTT_train.7k.csv, MSRVTT_JSFUSION_test.csv",
        read=functools.partial(msrvtt.read_jsfusion, train="MSRVTT_train.7k.csv"),
    ),
    "msrvtt-full": Layout(files="MSRVTT_data.json", read=msrvtt.read_full),
    "msvd": Layout(files="train_list.txt, val_list.txt, test_list.txt, raw-captions.pkl", read=msvd.read),
    "vatex-lists": Layout(files="train_list.txt, test_list.txt, ref_captions.json", read=vatex.read_lists),
    "vatex-tables": Layout(files="VATEX_data.json, VATEX_{train,val,test}.csv", read=vatex.read_tables),
    "didemo": Layout(files="{train,val,test}_list.txt, {train,val,test}_data.json", read=didemo.read),
    "activitynet": Layout(
        files="train_ids.json, train.json, val_ids.json, val_1.json",
        read=activitynet.read,
        other_names=activitynet.other_names,
    ),
    "lsmdc": Layout(files=", ".join(lsmdc.FILES.values()), read=lsmdc.read),
    "jsonl": Layout(
        files='{train,val,test}.jsonl of {"clip_id", "text"}, or --split-files',
        read=per_split.read_jsonl,
        is_per_split=True,
    ),
    "vindlu": Layout(
        files='{train,val,test}.json, lists of {"image", "caption"}, or --split-files',
        read=per_split.read_vindlu,
        is_per_split=True,
    ),
}
_ANY = ("jsonl", "vindlu")

DATASETS: dict[str, Dataset] = {
    "msrvtt-1k": Dataset(
        about="MSR-VTT, split 1k-A of JSFusion",
        protocol="single",
        layouts=("msrvtt-9k", *_ANY),
        published={"train": Count(9_000, 180_000), "test": Count(1_000, 1_000)},
        num_held_out=NUM_HELD_OUT,
    ),
    "msrvtt-7k": Dataset(
        about="MSR-VTT, 7,010 videos to train, the test of 1k-A",
        protocol="single",
        layouts=("msrvtt-7k", *_ANY),
        published={"train": Count(7_010, 140_200), "test": Count(1_000, 1_000)},
        num_held_out=NUM_HELD_OUT,
    ),
    "msrvtt-3k": Dataset(
        about="MSR-VTT, the full split",
        protocol="multi-sentence",
        layouts=("msrvtt-full", *_ANY),
        published={"train": Count(6_513, 130_260), "val": Count(497, 9_940), "test": Count(2_990, 59_800)},
    ),
    "msvd": Dataset(
        about="MSVD",
        protocol="multi-sentence",
        layouts=("msvd", *_ANY),
        published={"train": Count(1_200), "val": Count(100), "test": Count(670)},
    ),
    "vatex": Dataset(
        about="VATEX, English captions, the split of HGR",
        protocol="multi-sentence",
        layouts=("vatex-lists", "vatex-tables", *_ANY),
        published={"train": Count(25_991, 259_910), "val": Count(1_500, 15_000), "test": Count(1_500, 15_000)},
        num_held_out=NUM_HELD_OUT,
    ),
    "didemo": Dataset(
        about="DiDeMo, paragraphs",
        protocol="paragraph",
        layouts=("didemo", *_ANY),
        # The lists of collaborative-experts, which CLIP4Clip took over; the paper has 8,395 to train.
        published={"train": Count(8_392), "val": Count(1_065), "test": Count(1_004)},
    ),
    "activitynet": Dataset(
        about="ActivityNet Captions, paragraphs, val_1 as test",
        protocol="paragraph",
        layouts=("activitynet", *_ANY),
        published={"train": Count(10_009), "test": Count(4_917)},
        num_held_out=NUM_HELD_OUT,
    ),
    "lsmdc": Dataset(
        about="LSMDC 2016, 1,000 segments to test",
        protocol="single",
        layouts=("lsmdc", *_ANY),
        published={"train": Count(None, 101_079), "test": Count(1_000, 1_000)},
    ),
    "captions": Dataset(about="any other, every caption a query", protocol="multi-sentence", layouts=_ANY),
    "paragraphs": Dataset(about="any other, captions joined to paragraphs", protocol="paragraph", layouts=_ANY),
}


def choose(name: str, layout: str) -> tuple[Dataset, str]:
    """The data set, and the name of its layout: the usual one for "".

    Raises:
        ValueError: no such data set, or it does not come in that layout.
    """
    if name not in DATASETS:
        raise ValueError(
            f"got --dataset {name!r}, wanted one of {', '.join(DATASETS)}; --captions takes your own table"
        )
    dataset = DATASETS[name]
    if layout and layout not in dataset.layouts:
        known = "; ".join(f"{known} ({LAYOUTS[known].files})" for known in dataset.layouts)
        raise ValueError(f"got --layout {layout!r} for {name}, wanted one of {known}")
    return dataset, layout or dataset.layouts[0]
