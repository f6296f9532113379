"""A trained model as a folder: ``model.safetensors`` and ``config.json``. No pickle.

Equal weights and settings give equal bytes, and their digest is the model's name: ``model_id``.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from fpig_core.models import Model, ModelConfig, build_model, model_config_from_dict, model_config_to_dict

WEIGHTS, CONFIG = "model.safetensors", "config.json"
ID_LENGTH = 16


class Bundle(NamedTuple):
    """A loaded model in evaluation mode, its settings, and the digest that names it."""

    model: Model
    config: ModelConfig
    model_id: str


def save_bundle(folder: str | Path, model: Model) -> str:
    """Write the bundle and return its ``model_id``; a bundle already there is replaced as a whole.

    The source of the first weights is left out of the settings: the weights are in the folder.

    Raises:
        ValueError: ``folder`` exists and holds something else than a bundle.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - {WEIGHTS, CONFIG}):
        raise ValueError(f"got folder={str(folder)!r}, which is or holds something else; use a new folder")
    config = without_first_weights(model.config)
    weights = {key: value.detach().cpu().contiguous() for key, value in sorted(model.state_dict().items())}
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        (staging / WEIGHTS).write_bytes(save(weights))
        (staging / CONFIG).write_text(json.dumps(model_config_to_dict(config), indent=2, sort_keys=True) + "\n")
        staging.chmod(0o755)
        model_id = bundle_id(staging)
        _swap(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return model_id


def load_bundle(folder: str | Path, *, device: str = "cpu") -> Bundle:
    """Rebuild the model on ``device``, ready to encode.

    Raises:
        ValueError: a file is missing or damaged, or the weights do not fit the settings.
    """
    folder = Path(folder)
    model_id = bundle_id(folder)
    try:
        config = model_config_from_dict(json.loads((folder / CONFIG).read_text()))
    except json.JSONDecodeError as error:
        raise ValueError(f"got a damaged {folder / CONFIG}: {error}; write the bundle again") from error
    # a bundle from elsewhere must not name files or downloads of this machine
    model = build_model(without_first_weights(config))
    try:
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"got {folder / WEIGHTS} that does not fit {CONFIG} beside it: {error}") from error
    return Bundle(model.to(device).eval(), model.config, model_id)


def bundle_id(folder: str | Path) -> str:
    """The ``model_id`` of the bundle in ``folder``, from the bytes of its two files."""
    digest = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        path = Path(folder) / name
        if not path.is_file():
            raise ValueError(f"got no {name} in {str(folder)!r}; wanted a bundle as written by save_bundle")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:ID_LENGTH]


def without_first_weights(config: ModelConfig) -> ModelConfig:
    """The settings of a model whose weights are at hand, whatever its training started from."""
    return dataclasses.replace(config, backbone=dataclasses.replace(config.backbone, pretrained=""))


def _swap(staging: Path, folder: Path) -> None:
    """Put ``staging`` in the place of ``folder``: readers find the old bundle, none, or the new one, never a mix."""
    if not folder.exists():
        os.replace(staging, folder)
        return
    old = staging.with_name(staging.name + ".old")
    os.replace(folder, old)
    os.replace(staging, folder)
    shutil.rmtree(old)
