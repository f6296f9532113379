"""MSR-VTT as it is passed around: ``MSRVTT_data.json`` with all videos and captions, splits as CSV of ids."""

from collections.abc import Iterator
from typing import Any

from pipelines.datasets.entries import Entry, gather, listed
from pipelines.datasets.folder import Folder, kind_of

DATA, TEST_1K = "MSRVTT_data.json", "MSRVTT_JSFUSION_test.csv"
SPLITS_OF_3K = {"train": "train", "validate": "val", "validation": "val", "val": "val", "test": "test"}


def read_jsfusion(folder: Folder, *, train: str) -> Iterator[Entry]:
    """Training videos of the CSV ``train`` with all their captions, and the 1,000 pairs of JSFusion's test."""
    folder.require(DATA, train, TEST_1K)
    captions = captions_of(folder, DATA)
    yield from listed("train", _ids(folder, train), captions)
    for row in folder.rows(TEST_1K, required="sentence"):
        if None in row:
            raise folder.refuse(
                TEST_1K, f"a row with fields beyond the header, {row[None]}", "sentences with commas in quotes"
            )
        video_id = _text(row.get("video_id"))
        yield Entry("test", video_id, video_id, [row["sentence"]])


def read_full(folder: Folder) -> Iterator[Entry]:
    """All 10,000 videos, in the splits that ``MSRVTT_data.json`` names, with all captions."""
    folder.require(DATA)
    captions = captions_of(folder, DATA)
    for video in _objects(folder, DATA, "videos", "video_id", "split"):
        video_id, split = _text(video["video_id"]), _text(video["split"])
        yield Entry(SPLITS_OF_3K.get(split, split), video_id, video_id, captions.get(video_id, []))


def captions_of(folder: Folder, name: str) -> dict[str, list[Any]]:
    """Captions by id, of a file of this shape."""
    sentences = _objects(folder, name, "sentences", "video_id", "caption")
    return gather((_text(sentence["video_id"]), [sentence["caption"]]) for sentence in sentences)


def read_split_tables(folder: Folder, *, data: str, tables: dict[str, str]) -> Iterator[Entry]:
    """The same shape with one CSV of ids a split, and all captions in every split; the validation may be missing."""
    folder.require(data, *(name for split, name in tables.items() if split != "val"))
    captions = captions_of(folder, data)
    for split, name in tables.items():
        if name in folder.names:
            yield from listed(split, _ids(folder, name), captions)


def _ids(folder: Folder, name: str) -> list[str]:
    return [_text(row["video_id"]) for row in folder.rows(name, required="video_id")]


def _objects(folder: Folder, name: str, key: str, *fields: str) -> list[dict[str, Any]]:
    data = folder.json(name)
    values = data.get(key) if isinstance(data, dict) else None
    if not isinstance(values, list):
        raise folder.refuse(name, kind_of(data), "an object with the lists 'videos' and 'sentences'")
    for value in values:
        if not isinstance(value, dict) or any(field not in value for field in fields):
            raise folder.refuse(name, f"{kind_of(value)} among the {key}", f"objects with {' and '.join(fields)}")
    return values


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()
