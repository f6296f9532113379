"""Models by any of their names: shared by the jobs that use a corpus."""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from cluster.logged_models import resolve_model_uri
from cluster.tracking import NO_TRACKING
from fpig_core.bundle import Bundle, bundle_id, load_bundle
from pipelines.places import ORIGIN, absolute, local_bundle

MLFLOW_SCHEMES = ("runs:/", "models:/")
SQLITE = "sqlite:///"


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


def load_model_of(
    corpus_meta: dict, *, model: str = "", tracking: str = NO_TRACKING, device: str = ""
) -> tuple[Bundle, dict[str, Any]]:
    """The model that embedded a corpus, and its origin; ``model`` says where it is, by default where it was then.

    ``device`` is by default a GPU where there is one.

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
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return load_bundle(folder, device=device), read_origin(folder)
