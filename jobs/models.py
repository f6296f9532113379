"""Models by any of their names, and queries turned into vectors: shared by the jobs that use a corpus."""

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cluster.tracking import NO_TRACKING, resolve_model_uri
from fpig_core.backbone import tokenize
from fpig_core.bundle import Bundle, bundle_id, load_bundle
from fpig_core.models import Reranker, method_of
from fpig_core.two_stage import columns_to_read
from pipelines.corpus import read_columns
from pipelines.manifest import Manifest, load_manifest
from pipelines.parts import CorpusSpec
from pipelines.places import ORIGIN, absolute, local_bundle

MLFLOW_SCHEMES = ("runs:/", "models:/")
SQLITE = "sqlite:///"
QUERY_BATCH = 256


@contextlib.contextmanager
def model_folder(model: str, *, tracking: str = NO_TRACKING) -> Iterator[Path]:
    """Local folder of a model given by path, URL, or MLflow URI (``runs:/…``, ``models:/…``).

    What had to be copied to this machine is removed at the end.

    Raises:
        ValueError: no such model, or an MLflow URI and no MLflow to ask.
    """
    if not model.startswith(MLFLOW_SCHEMES):
        with local_bundle(absolute(model)) as folder:
            yield folder
        return
    if tracking in ("", NO_TRACKING):
        raise ValueError(f"got model {model} and no MLflow to find it by; give --tracking")
    # MLflow would make an empty database there.
    if tracking.startswith(SQLITE) and not Path(tracking.removeprefix(SQLITE)).exists():
        raise ValueError(f"got model {model} and no MLflow database at {tracking}; give --tracking")
    with tempfile.TemporaryDirectory(prefix="fpig-bundle-") as copy:
        yield resolve_model_uri(model, tracking_uri=tracking, folder=copy)


def read_origin(folder: Path) -> dict[str, Any]:
    """What its training left beside a model; empty if it comes from elsewhere."""
    record = folder / ORIGIN
    return json.loads(record.read_text()) if record.exists() else {}


def load_manifest_of(corpus_meta: dict, *, manifest: str = "") -> Manifest:
    """The manifest of a corpus; ``manifest`` says where it is, by default where it was then.

    Raises:
        ValueError: it isn't there, or is another manifest.
    """
    where, wanted = manifest or corpus_meta["manifest"], corpus_meta["manifest_digest"]
    found = load_manifest(where)
    if found.digest != wanted:
        raise ValueError(
            f"got manifest {found.digest} at {where}, wanted {wanted}, from which the corpus was made; "
            "give that one with --manifest, or embed the corpus again"
        )
    return found


def load_model_of(corpus_meta: dict, *, model: str = "", tracking: str = NO_TRACKING) -> tuple[Bundle, dict[str, Any]]:
    """The model that embedded a corpus, and its origin; ``model`` says where it is, by default where it was then.

    Raises:
        ValueError: it isn't there, or is another model: its vectors do not compare with the corpus.
    """
    where, wanted = model or corpus_meta["model"], corpus_meta["model_id"]
    with model_folder(where, tracking=tracking) as folder:
        try:
            got = bundle_id(folder)
        except ValueError as error:
            raise ValueError(f"{error}; say with --model where model {wanted} is now") from None
        if got != wanted:
            raise ValueError(
                f"got model {got} at {where}, wanted {wanted}, which embedded this corpus; "
                f"give that one, or embed the corpus with {where}"
            )
        return load_bundle(folder, device="cuda" if torch.cuda.is_available() else "cpu"), read_origin(folder)


def encode_queries(bundle: Bundle, texts: Sequence[str]) -> np.ndarray:
    """Texts -> the first stage's vectors float32 [Q, D]."""
    encode = bundle.model.encode_text
    return _in_batches(bundle, texts, lambda word_QL: {"vector": encode(word_QL).float()})["vector"].numpy()


def encode_rerank_queries(bundle: Bundle, texts: Sequence[str]) -> dict[str, Tensor]:
    """Texts -> what the model's ``score`` needs of them: tensors [Q, …] by name, on the CPU."""
    return _in_batches(bundle, texts, reranker_of(bundle).encode_query)


def reranker_of(bundle: Bundle) -> Reranker:
    """The model as one that judges pairs.

    Raises:
        ValueError: it is not one.
    """
    if not isinstance(bundle.model, Reranker):
        raise ValueError(
            f"got --rerank-top and model {bundle.model_id}, a {method_of(bundle.config)}, which reranks nothing; "
            "leave --rerank-top out, or use a corpus of a model that does"
        )
    return bundle.model


def read_rerank_columns(
    bundle: Bundle, corpus_url: str, corpus_meta: dict, *, rows: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """What the model's ``score`` needs of the videos of a corpus, or of its ``rows`` alone: arrays [B, …] by name.

    Raises:
        ValueError: the model reranks nothing, or the corpus lacks a column.
    """
    stored = [column.name for column in CorpusSpec.from_meta(corpus_meta).columns]
    return read_columns(corpus_url, columns_to_read(reranker_of(bundle), stored), rows=rows)


def _in_batches(
    bundle: Bundle, texts: Sequence[str], encode: Callable[[Tensor], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """``encode`` of all texts, ``QUERY_BATCH`` at once, gathered on the CPU."""
    length, device = bundle.config.backbone.context_length, next(bundle.model.parameters()).device
    with torch.inference_mode():
        blocks = [
            encode(tokenize(texts[start : start + QUERY_BATCH], context_length=length).to(device))
            for start in range(0, len(texts), QUERY_BATCH)
        ]
        return {name: torch.cat([block[name].cpu() for block in blocks]) for name in blocks[0]}
