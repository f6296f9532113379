"""Models by any of their names, and queries turned into vectors: shared by the jobs that use a corpus."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from cluster.tracking import resolve_model_uri
from fpig_core.backbone import tokenize
from fpig_core.bundle import Bundle, bundle_id, load_bundle
from pipelines.places import absolute, local_bundle

MLFLOW_SCHEMES = ("runs:/", "models:/")
QUERY_BATCH = 256


@contextlib.contextmanager
def model_folder(model: str, *, tracking: str = "") -> Iterator[Path]:
    """Local folder of a model given by path, URL, or MLflow URI (``runs:/…``, ``models:/…``).

    Raises:
        ValueError: no such model.
    """
    if model.startswith(MLFLOW_SCHEMES):
        yield resolve_model_uri(model, tracking_uri="" if tracking == "none" else tracking)
        return
    with local_bundle(absolute(model)) as folder:
        yield folder


def load_model_of(corpus_meta: dict, *, model: str = "", tracking: str = "") -> Bundle:
    """The model that embedded a corpus; ``model`` says where it is, by default where it was then.

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
        return load_bundle(folder, device="cuda" if torch.cuda.is_available() else "cpu")


def encode_queries(bundle: Bundle, texts: Sequence[str]) -> np.ndarray:
    """Texts -> L2-normalised vectors float32 [Q, D]."""
    length, device = bundle.config.backbone.context_length, next(bundle.model.parameters()).device
    blocks = []
    with torch.inference_mode():
        for start in range(0, len(texts), QUERY_BATCH):
            word_BL = tokenize(texts[start : start + QUERY_BATCH], context_length=length).to(device)
            blocks.append(bundle.model.encode_text(word_BL).float().cpu().numpy())
    return np.concatenate(blocks)
