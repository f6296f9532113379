"""What an evaluation asks, and by what else it looks at the answers: captions, banks of other captions, categories."""

import json
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Literal

import torch

from fpig_core.bundle import Bundle
from fpig_core.evaluation import Queries
from fpig_core.normalisers import Bank
from fpig_core.retrieval import encode_queries
from pipelines import storage
from pipelines.corpus import Corpus, manifest_of, read_corpus
from pipelines.datasets.catalogue import Protocol
from pipelines.manifest import Manifest
from pipelines.tables import read_rows

Choice = Literal["first", "all", "paragraph"]
CHOICES: dict[Protocol, Choice] = {"single": "first", "multi-sentence": "all", "paragraph": "paragraph"}


def choose_queries(video_ids: Sequence[str], manifest: Manifest, *, queries: Choice) -> Queries:
    """Captions of the embedded videos, which ``video_ids`` names by uid.

    ``first``: one a video; ``all``: each is a query (multi-sentence); ``paragraph``: all of a video, joined by spaces.

    Raises:
        ValueError: no embedded video has a caption.
    """
    embedded, chosen = set(video_ids), []
    for rows in manifest.batches(["uid", "captions"]):
        for uid, captions in zip(rows["uid"].to_pylist(), rows["captions"].to_pylist(), strict=True):
            if uid in embedded and captions:
                texts = {"first": captions[:1], "all": captions, "paragraph": [" ".join(captions)]}[queries]
                chosen += [(f"{uid}#{number}", text, uid) for number, text in enumerate(texts)]
    if not chosen:
        raise ValueError(f"got no caption for any embedded video in {manifest.root}; evaluation needs captions")
    ids, texts, uids = zip(*chosen, strict=True)
    return Queries(ids=ids, texts=texts, video_ids=uids)


def read_bank(url: str, bundle: Bundle, *, column: str) -> Bank:
    """The bank for ``qb_norm``: captions and videos of a corpus, as a rule that of the training set.

    Raises:
        ValueError: a corpus of another model, or one without captions.
    """
    corpus = read_corpus(url, column=column)
    if corpus.meta["model_id"] != bundle.model_id:
        raise ValueError(
            f"got the bank {url} of model {corpus.meta['model_id']}, wanted one of {bundle.model_id}; "
            "embed that set with this model"
        )
    manifest = manifest_of(url, corpus.meta)
    texts = choose_queries(corpus.uids, manifest, queries="all").texts
    name = PurePosixPath(manifest.root).name
    return Bank(torch.from_numpy(encode_queries(bundle, texts)), torch.from_numpy(corpus.vectors), name)


def read_categories(url: str, corpus: Corpus) -> dict[str, str]:
    """Category of videos by uid, out of a table with the columns ``video_id`` and ``category``.

    A .json is read as MSR-VTT's annotations are: ``{"videos": [{"video_id": …, "category": …}, …]}``.

    Raises:
        ValueError: the table cannot be read, or names none of the videos.
    """
    category_of = {str(row.get("video_id")): str(row["category"]) for row in _category_rows(url)}
    pairs = zip(corpus.uids, corpus.video_ids, strict=True)
    found = {uid: category_of[video_id] for uid, video_id in pairs if video_id in category_of}
    if not found:
        example = next(iter(corpus.video_ids), "")
        raise ValueError(
            f"got {len(category_of)} categories in {url}, none of a video of the corpus, such as {example}"
        )
    return found


def _category_rows(url: str) -> Iterator[dict]:
    if not url.endswith(".json"):
        yield from (dict(row) for row in read_rows(url, required="category"))
        return
    try:
        yield from (row for row in json.loads(storage.read_bytes(url))["videos"] if "category" in row)
    except FileNotFoundError:
        raise ValueError(f"got no table at {url}; check the path") from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"got {url}, wanted a list 'videos' of objects with 'category' in it: {error!r}") from None
