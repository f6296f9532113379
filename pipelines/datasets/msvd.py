"""MSVD (Chen and Dolan, 2011): lists of ids, and a pickle with the words of every caption."""

from collections.abc import Iterator
from typing import Any

from pipelines import storage
from pipelines.datasets.entries import Entry, listed
from pipelines.datasets.folder import Folder, kind_of
from pipelines.datasets.plain_pickle import UnsafePickleError, load_plain

CAPTIONS = "raw-captions.pkl"
SPLITS = ("train", "val", "test")
MAX_WORDS = 10_000_000
"""A pickle can name one list very often; the captions hold some 570,000 words."""


def read(folder: Folder) -> Iterator[Entry]:
    """``{split}_list.txt`` with an id a line; ``raw-captions.pkl`` = ``{video_id: [[word, …], …]}``."""
    folder.require(CAPTIONS, *(f"{split}_list.txt" for split in SPLITS))
    captions = read_captions(folder)
    for split in SPLITS:
        yield from listed(split, folder.lines(f"{split}_list.txt"), captions)


def read_captions(folder: Folder) -> dict[str, list[Any]]:
    """Captions by id, their words joined by a space."""
    wanted = "{video_id: [[word, …], …]} of strings and numbers"
    try:
        told = load_plain(folder.read(CAPTIONS))
    except UnsafePickleError as error:
        where = storage.join(folder.url, CAPTIONS)
        raise ValueError(
            f"got a pickle with {error} in {where}, wanted {wanted}, which needs no such thing; "
            "nothing of it was run: get the file from a source you trust"
        ) from None
    if not isinstance(told, dict):
        raise folder.refuse(CAPTIONS, kind_of(told), wanted)
    captions: dict[str, list[Any]] = {}
    num_words = 0
    for video_id, sentences in told.items():
        if not isinstance(video_id, str) or not isinstance(sentences, (list, tuple)):
            raise folder.refuse(CAPTIONS, f"{kind_of(sentences)} for {kind_of(video_id)}", wanted)
        captions[video_id] = []
        for words in sentences:
            if not isinstance(words, (list, tuple)) or not all(type(word) in (str, int, float) for word in words):
                raise folder.refuse(CAPTIONS, f"{kind_of(words)} as a caption of {video_id}", wanted)
            num_words += len(words)
            if num_words > MAX_WORDS:
                raise folder.refuse(CAPTIONS, f"more than {MAX_WORDS} words", "the captions of MSVD")
            captions[video_id].append(" ".join(map(str, words)))
    return captions
