"""What a model must offer, which methods there are, and how their settings become JSON and back."""

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from fpig_core.backbone import build_clip, locate
from fpig_core.depth import BackboneParameter
from fpig_core.eercf import Eercf, EercfConfig
from fpig_core.fpig import FPig, FPigConfig
from fpig_core.rows import Noise, Rows
from fpig_core.t2v2t import T2V2T, T2V2TConfig
from fpig_core.two_tower import TwoTower, TwoTowerConfig


@runtime_checkable
class Retriever(Protocol):
    """Encodes texts and videos apart from each other, so that a corpus can be embedded once."""

    def encode_text(self, word_QL: Tensor, /) -> Tensor:
        """Vectors [Q, D] whose inner products with the column ``vector`` are the scores; not all are of unit length."""
        ...

    def encode_video(self, frame_BF3HW: Tensor, /) -> Any:
        """Everything one pass over uint8 frames gives, as a named tuple of the method's own."""
        ...

    def columns(self, video: Any, /) -> dict[str, Tensor]:
        """What a corpus may keep of ``encode_video``: tensors [B, …] by name; ``vector`` [B, D] is searched."""
        ...


@runtime_checkable
class Reranker(Protocol):
    """Judges pairs of a query and a video from what was stored of both."""

    @property
    def rerank_columns(self) -> tuple[str, ...]:
        """Columns of a corpus that ``score`` needs."""
        ...

    @property
    def optional_rerank_columns(self) -> tuple[str, ...]:
        """Columns that ``score`` uses where they are given."""
        ...

    def encode_query(self, word_QL: Tensor, /) -> dict[str, Tensor]:
        """What ``score`` needs of queries: tensors [Q, …] by name."""
        ...

    def score(self, query: dict[str, Tensor], video: dict[str, Tensor], /) -> Tensor:
        """Scores [n] of n pairs, row by row; higher is better."""
        ...


@runtime_checkable
class Trainable(Protocol):
    """Features, a row for each sample, and a loss over them; in between they can be gathered, or computed again."""

    def features(self, frame_BF3HW: Tensor, word_BL: Tensor, *, noise: Noise | None = None) -> Any:
        """A named tuple of tensors [B, …], among them ``text_BD`` and ``video_BD``, the first stage's vectors."""
        ...

    def loss(self, features: Any, rows: Rows) -> dict[str, Tensor]:
        """Scalars: ``loss`` and what is worth watching beside it."""
        ...

    def clamp(self) -> None:
        """Bring parameters back into their range; called after every optimiser step."""
        ...

    def backbone_parameters(self) -> Iterator[BackboneParameter]:
        """Parameters that CLIP brought along, with their depth; all others are new."""
        ...


class Method(NamedTuple):
    config_type: type
    model_type: type[nn.Module]


METHODS: dict[str, Method] = {
    "fpig": Method(FPigConfig, FPig),
    "two_tower": Method(TwoTowerConfig, TwoTower),
    "eercf": Method(EercfConfig, Eercf),
    "t2v2t": Method(T2V2TConfig, T2V2T),
}

ModelConfig = FPigConfig | TwoTowerConfig | EercfConfig | T2V2TConfig
Model = Any
"""A torch module that is a ``Retriever`` and ``Trainable``; Python's types have no word for both at once."""


def build_model(config: ModelConfig) -> Model:
    """The model of a config, in float32 on the CPU, in training mode."""
    return METHODS[method_of(config)].model_type(config)


def check_config(config: ModelConfig) -> Model:
    """Find out early what does not fit together: the model without memory; local weights are read.

    Raises:
        ValueError: what ``build_model`` would raise, but for weights that a tag names.
    """
    if Path(locate(config.backbone).pretrained).is_file():
        build_clip(config.backbone)
    with torch.device("meta"):
        return build_model(dataclasses.replace(config, backbone=dataclasses.replace(config.backbone, pretrained="")))


def method_of(config: ModelConfig) -> str:
    """The registered name of the method that ``config`` belongs to."""
    for name, method in METHODS.items():
        if type(config) is method.config_type:
            return name
    raise ValueError(f"got a config of type {type(config).__name__}; wanted that of one of {', '.join(METHODS)}")


def model_config_to_dict(config: ModelConfig) -> dict[str, Any]:
    """Plain JSON values, with the method's name under ``method``."""
    return {"method": method_of(config), **_plain(dataclasses.asdict(config))}


def model_config_from_dict(values: Mapping[str, Any]) -> ModelConfig:
    """Read what ``model_config_to_dict`` wrote; settings left out take their defaults.

    Raises:
        ValueError: unknown method, unknown setting, or a value of the wrong type.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"got {type(values).__name__} as a model config, wanted a group of settings")
    values = dict(values)
    method = values.pop("method", None)
    if method not in METHODS:
        raise ValueError(f"got method={method!r}, wanted one of {', '.join(METHODS)}")
    return _read(METHODS[method].config_type, values, where=str(method))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _read(wanted: Any, value: Any, *, where: str) -> Any:
    if dataclasses.is_dataclass(wanted):
        if not isinstance(value, Mapping):
            raise ValueError(f"{where}: got {value!r}, wanted a group of settings")
        hints = typing.get_type_hints(wanted)
        unknown = sorted(value.keys() - hints.keys())
        if unknown:
            raise ValueError(f"{where}: got unknown settings {', '.join(unknown)}; known are {', '.join(hints)}")
        read = {key: _read(hints[key], item, where=f"{where}.{key}") for key, item in value.items()}
        return wanted(**read)  # type: ignore[operator]
    origin, options = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is tuple and isinstance(value, list | tuple) and len(value) == len(options):
        return tuple(_read(kind, item, where=where) for kind, item in zip(options, value, strict=True))
    if origin is Literal and value in options:
        return value
    if wanted is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if origin is not None or type(value) is not wanted:
        raise ValueError(f"{where}: got {value!r}, wanted {getattr(wanted, '__name__', wanted)}")
    return value
