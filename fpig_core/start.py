"""Start a model from the weights of another one: retrieval from a pretrained generator, many frames from few."""

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from fpig_core.bundle import Bundle, load_bundle
from fpig_core.models import Model, ModelConfig, method_of
from fpig_core.vip import VipEncoder, interpolate_times


@torch.no_grad()
def start_from(model: Model, bundle_folder: str | Path) -> str:
    """Overwrite every weight of ``model`` by the bundle's and return the bundle's ``model_id``.

    Both must be of one method and backbone, and may differ in all settings that leave the tensors alone (stage,
    dropout, temperatures, weights of losses, words of a query) and in the number of frames, for which the table of
    times is interpolated. What is learned comes from the bundle even if a setting gives its start, as
    ``logit_scale_init`` does. Heads that only pretraining needs (``pretraining_parts``) may stay behind. A model on the
    device ``meta`` is only checked.

    Raises:
        ValueError: there is no sound bundle, or it cannot be carried over whole; the model is as it was.
    """
    bundle = load_bundle(bundle_folder)
    got, wanted = _kind(bundle.config), _kind(model.config)
    if got != wanted:
        raise ValueError(
            f"got a bundle of {got} in {str(bundle_folder)!r}, wanted {wanted}; start from one of that kind"
        )
    own = model.state_dict()
    dropped = getattr(model, "pretraining_parts", ())
    weights = {
        key: tensor
        for key, tensor in _at_length_of(model, bundle).items()
        if key in own or key.split(".")[0] not in dropped
    }
    wrong = sorted(own.keys() ^ weights.keys())
    wrong += sorted(key for key in own.keys() & weights.keys() if own[key].shape != weights[key].shape)
    if wrong:
        raise ValueError(
            f"got a bundle in {str(bundle_folder)!r} whose {_shape(weights, wrong[0])}, wanted {_shape(own, wrong[0])} "
            f"({len(wrong)} differ); set as in its config.json: {', '.join(_differing(model.config, bundle.config))}"
        )
    for key, tensor in own.items():
        tensor.copy_(weights[key])
    return bundle.model_id


def _kind(config: ModelConfig) -> str:
    return f"{method_of(config)} on {config.backbone.name} with {config.backbone.activation}"


def _at_length_of(model: Model, bundle: Bundle) -> dict[str, Tensor]:
    """The bundle's weights, tables of times as long as the model's."""
    weights = bundle.model.state_dict()
    for name, module in model.named_modules():
        key = f"{name}.temporal_embedding"
        if isinstance(module, VipEncoder) and key in weights:
            weights[key] = interpolate_times(weights[key], len(module.temporal_embedding))
    return weights


def _shape(weights: dict[str, Tensor], key: str) -> str:
    return f"{key} has the shape {list(weights[key].shape)}" if key in weights else f"{key} is missing"


def _differing(mine: ModelConfig, other: ModelConfig) -> list[str]:
    """Names of the settings that may be to blame."""
    names = [field.name for field in dataclasses.fields(mine) if field.name != "backbone"]
    return [name for name in names if getattr(mine, name) != getattr(other, name)]
