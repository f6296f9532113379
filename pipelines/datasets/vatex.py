"""VATEX (Wang et al., 2019), English captions, in the two shapes it is passed around in."""

from collections.abc import Iterator
from typing import Any

from pipelines.datasets.entries import Entry, listed
from pipelines.datasets.folder import Folder, kind_of
from pipelines.datasets.msrvtt import read_split_tables

CAPTIONS = "ref_captions.json"


def read_lists(folder: Folder) -> Iterator[Entry]:
    """``{split}_list.txt`` with an id a line, ``val`` if it is there; ``ref_captions.json`` = ``{id: [sentence]}``."""
    folder.require(CAPTIONS, "train_list.txt", "test_list.txt")
    captions = _captions(folder)
    for split in ("train", "val", "test"):
        if f"{split}_list.txt" in folder.names:
            yield from listed(split, folder.lines(f"{split}_list.txt"), captions)


def read_tables(folder: Folder) -> Iterator[Entry]:
    """The shape of MSR-VTT: ``VATEX_data.json``, and a CSV of ids for each split."""
    tables = {split: f"VATEX_{split}.csv" for split in ("train", "val", "test")}
    return read_split_tables(folder, data="VATEX_data.json", tables=tables)


def _captions(folder: Folder) -> dict[str, list[Any]]:
    told = folder.json(CAPTIONS)
    if not isinstance(told, dict):
        raise folder.refuse(CAPTIONS, kind_of(told), "{video_id: [sentence, …]}")
    for video_id, sentences in told.items():
        if not isinstance(sentences, list):
            raise folder.refuse(CAPTIONS, f"{kind_of(sentences)} for {video_id}", "{video_id: [sentence, …]}")
    return told
