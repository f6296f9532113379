"""Annotation formats with one file a split, in use for many data sets: CLIP-ViP's and VindLU's."""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from pipelines.datasets.entries import Entry, gather
from pipelines.datasets.folder import Folder, kind_of

SPLITS = ("train", "val", "test")


def read_jsonl(folder: Folder) -> Iterator[Entry]:
    """A line a video, ``{"clip_id": …, "text": str | [str, …]}``: CLIP-ViP (Xue et al., 2023) and F-Pig."""
    for split, name in _files(folder, ".jsonl"):
        for row in folder.json_lines(name):
            clip_id = _field(folder, name, row, "clip_id", beside="text")
            yield Entry(split, PurePosixPath(clip_id).name, clip_id, _as_list(row["text"]))


def read_vindlu(folder: Folder) -> Iterator[Entry]:
    """``[{"image": path, "caption": str | [str, …]}, …]``, a path once or a row for each caption: VindLU (2023)."""
    for split, name in _files(folder, ".json"):
        rows = folder.json(name)
        if not isinstance(rows, list):
            raise folder.refuse(name, kind_of(rows), "a list of objects with 'image' and 'caption'")
        paths = (_field(folder, name, row, "image", beside="caption") for row in rows)
        told = gather((path, _as_list(row["caption"])) for path, row in zip(paths, rows, strict=True))
        for path, captions in told.items():
            yield Entry(split, PurePosixPath(path).stem, path, captions)


def _files(folder: Folder, suffix: str) -> Iterator[tuple[str, str]]:
    splits = dict.fromkeys((*SPLITS, *folder.split_files))
    files = [(split, name) for split in splits if (name := folder.file_of(split, f"{split}{suffix}"))]
    if not files:
        there = ", ".join(folder.names[:8])
        raise ValueError(
            f"got {there} in {folder.url}, wanted train{suffix}, val{suffix} or test{suffix}; "
            f"name them otherwise by --split-files train NAME test NAME"
        )
    yield from files


def _field(folder: Folder, name: str, row: Any, field: str, *, beside: str) -> str:
    """A text field of an object that has also ``beside``."""
    value = row.get(field) if isinstance(row, dict) and beside in row else None
    if not isinstance(value, (str, int)):
        raise folder.refuse(name, kind_of(row), f"objects with {field!r} and {beside!r}")
    return str(value).strip()


def _as_list(captions: Any) -> list[Any]:
    return captions if isinstance(captions, list) else [captions]
