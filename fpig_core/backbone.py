"""The CLIP a model starts from: open_clip's own ViT and text transformer, built and filled here, refused if unfit."""

import dataclasses
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import open_clip
import torch
from open_clip.model import CLIP, resize_pos_embed
from open_clip.pretrained import download_pretrained, get_pretrained_cfg, list_pretrained_tags_by_model
from open_clip.transformer import QuickGELU, text_global_pool
from safetensors.torch import load_file
from torch import Tensor, nn

from fpig_core.depth import BackboneParameter, parameters_by_depth

VOCABULARY = 49408
BEGIN, END = VOCABULARY - 2, VOCABULARY - 1

TINY: dict[str, Any] = {
    "embed_dim": 96,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 96, "layers": 3, "head_width": 24},
    "text_cfg": {"context_length": 77, "vocab_size": VOCABULARY, "width": 96, "heads": 4, "layers": 2},
}

OPENAI_EXTRAS = ("input_resolution", "context_length", "vocab_size")

SUPPORTED_TOP = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}
SUPPORTED_VISION = {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio", "ls_init_value"}
SUPPORTED_TEXT = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "ls_init_value"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backbone:
    """Which CLIP, and with which weights.

    ``name`` is an open_clip model name or ``tiny`` (32 px, for tests and the demo). ``pretrained`` is empty (random
    weights), a tag of open_clip, or a local file. ``activation="auto"`` takes what the weights were trained with:
    QuickGELU for OpenAI's, else what the name says. ``context_length`` counts the words of a query with both ends.
    """

    name: str = "ViT-B-32"
    pretrained: str = ""
    context_length: int = 50
    activation: Literal["auto", "gelu", "quick_gelu"] = "auto"

    def __post_init__(self) -> None:
        if self.context_length < 3:
            raise ValueError(f"got context_length={self.context_length}, wanted at least 3: begin, one word, end")


def build_clip(backbone: Backbone) -> CLIP:
    """Build the towers in float32 on the CPU, with their whole table of word positions (77 rows for CLIP).

    Raises:
        ValueError: unknown or unsupported tower, unknown tag or file, weights that do not fit.
    """
    settings = _settings(backbone.name)
    weights: dict[str, Tensor] | None = None
    needs_quick_gelu = False
    if backbone.pretrained:
        path, needs_quick_gelu = _find_weights(backbone)
        weights, is_openai = _read_weights(path)
        needs_quick_gelu = needs_quick_gelu or is_openai
        if "positional_embedding" in weights:
            settings["text_cfg"]["context_length"] = len(weights["positional_embedding"])
    settings["quick_gelu"] = {
        "auto": needs_quick_gelu or settings.get("quick_gelu", False),
        "gelu": False,
        "quick_gelu": True,
    }[backbone.activation]
    rows = settings["text_cfg"]["context_length"]
    if backbone.context_length > rows:
        raise ValueError(
            f"got context_length={backbone.context_length}, but {backbone.name} knows {rows} word positions; "
            f"use at most {rows}"
        )
    clip = CLIP(**settings)
    if weights is not None:
        _fill(clip, weights, backbone=backbone)
    return clip


def check_frame_size(clip: CLIP, size: int) -> None:
    """Refuse frames that the vision tower does not take.

    Raises:
        ValueError: ``size`` is not the tower's.
    """
    wanted: Any = clip.visual.image_size
    if wanted != (size, size):
        raise ValueError(
            f"got preprocess.size={size}, but the vision tower sees frames of {wanted[0]} × {wanted[1]}; "
            f"use preprocess.size={wanted[0]}"
        )


def settle(backbone: Backbone, clip: Any) -> Backbone:
    """The same backbone with its activation spelled out, so that it can be rebuilt without its first weights."""
    activation = "quick_gelu" if isinstance(clip.transformer.resblocks[0].mlp.gelu, QuickGELU) else "gelu"
    return dataclasses.replace(backbone, activation=activation)


def locate(backbone: Backbone) -> Backbone:
    """The same backbone with a local weight file named in full, for processes that work in another folder.

    Raises:
        ValueError: ``pretrained`` is neither a file nor a tag.
    """
    if not backbone.pretrained or _tag(backbone):
        return backbone
    return dataclasses.replace(backbone, pretrained=str(Path(backbone.pretrained).resolve()))


def tokenize(texts: Sequence[str], *, context_length: int) -> Tensor:
    """CLIP's word numbers [Q, L], zero-padded; longer texts are cut and keep their end mark."""
    return open_clip.tokenize(list(texts), context_length=context_length)


class TextFeatures(NamedTuple):
    """Of B texts: one vector each, not normalised, and what the transformer says of every word."""

    text_BD: Tensor
    word_BLW: Tensor


class TextTower(nn.Module):
    """CLIP's text half, with the parameters of ``clip`` (shared, not copied).

    Texts are in the shared space, or with ``project=False`` in the tower's own.
    """

    token_embedding: nn.Embedding
    positional_embedding: nn.Parameter
    transformer: Any
    ln_final: nn.LayerNorm
    text_projection: nn.Parameter | None
    attn_mask: Tensor

    def __init__(self, clip: Any, *, project: bool = True) -> None:
        super().__init__()
        self.token_embedding = clip.token_embedding
        self.positional_embedding = clip.positional_embedding
        self.transformer = clip.transformer
        self.ln_final = clip.ln_final
        self.text_projection = clip.text_projection if project else None
        self.register_buffer("attn_mask", clip.attn_mask, persistent=False)

    def clip_parameters(self) -> Iterator[BackboneParameter]:
        """Parameters that came from CLIP: all."""
        return parameters_by_depth(self, [*self.transformer.resblocks])

    def forward(self, word_BL: Tensor) -> TextFeatures:
        """Encode word numbers with any L up to the length of the table."""
        num_words = word_BL.shape[1]
        x_BLW = self.token_embedding(word_BL) + self.positional_embedding[:num_words]
        x_BLW = self.ln_final(self.transformer(x_BLW, attn_mask=self.attn_mask[:num_words, :num_words]))
        text_BD = text_global_pool(x_BLW, word_BL, "argmax")
        return TextFeatures(text_BD if self.text_projection is None else text_BD @ self.text_projection, x_BLW)


def _settings(name: str) -> dict[str, Any]:
    if name == "tiny":
        return {**TINY, "vision_cfg": dict(TINY["vision_cfg"]), "text_cfg": dict(TINY["text_cfg"])}
    if name not in open_clip.list_models():
        raise ValueError(f"got backbone name={name!r}, wanted 'tiny' or an open_clip model name such as 'ViT-B-32'")
    settings = open_clip.get_model_config(name)
    assert settings is not None
    extras = sorted(set(settings) - SUPPORTED_TOP)
    extras += sorted(f"vision_cfg.{key}" for key in set(settings["vision_cfg"]) - SUPPORTED_VISION)
    extras += sorted(f"text_cfg.{key}" for key in set(settings["text_cfg"]) - SUPPORTED_TEXT)
    if not isinstance(settings["vision_cfg"].get("layers"), int):
        extras.append("vision_cfg.layers (a ResNet)" if "layers" in settings["vision_cfg"] else "no vision layers")
    if settings["text_cfg"].get("vocab_size", VOCABULARY) != VOCABULARY:
        extras.append("text_cfg.vocab_size")
    if extras:
        raise ValueError(
            f"got backbone name={name!r}, which needs {', '.join(extras)}; wanted open_clip's plain VisionTransformer "
            "with CLIP's own text transformer; use for example ViT-B-32, ViT-B-16 or ViT-L-14"
        )
    return settings


def _tag(backbone: Backbone) -> dict[str, Any] | None:
    """What open_clip knows of the tag; None for a local file."""
    if Path(backbone.pretrained).is_file():
        return None
    tag = get_pretrained_cfg(backbone.name, backbone.pretrained)
    if not tag:
        raise ValueError(
            f"got pretrained={backbone.pretrained!r}, neither a file nor a tag of {backbone.name}; "
            f"tags: {list_pretrained_tags_by_model(backbone.name) or 'none'}"
        )
    return tag


def _find_weights(backbone: Backbone) -> tuple[Path, bool]:
    """The local file of the weights (downloaded for a tag) and whether they were trained with QuickGELU."""
    tag = _tag(backbone)
    if tag is None:
        return Path(backbone.pretrained), False
    return Path(download_pretrained(tag)), bool(tag.get("quick_gelu", False))


def _read_weights(path: Path) -> tuple[dict[str, Tensor], bool]:
    """The state dict in ``path``, and whether it has the marks of an OpenAI file.

    No pickle is ever executed: safetensors, plain tensors (``weights_only``), or OpenAI's TorchScript archive, whose
    code runs in TorchScript's interpreter and has no Python.
    """
    if path.suffix == ".safetensors":
        weights = load_file(path)
    elif _is_torchscript(path):
        weights = torch.jit.load(path, map_location="cpu").state_dict()
        return {key: value for key, value in weights.items() if key not in OPENAI_EXTRAS}, True
    else:
        try:
            weights = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            # torch reports refused pickles, truncated files and foreign formats by different exception types
            raise ValueError(
                f"got pretrained={str(path)!r}, which holds more than plain tensors or is damaged; wanted a state "
                "dict; convert it with safetensors.torch.save_file on a machine you can afford to lose"
            ) from error
    if isinstance(weights, dict) and isinstance(weights.get("state_dict"), dict):
        weights = weights["state_dict"]
    if not isinstance(weights, dict) or not weights or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"got pretrained={str(path)!r} without named tensors; wanted a CLIP state dict")
    weights = {key.removeprefix("module."): value for key, value in weights.items()}
    is_openai = any(key in weights for key in OPENAI_EXTRAS)
    return {key: value for key, value in weights.items() if key not in OPENAI_EXTRAS}, is_openai


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _fill(clip: CLIP, weights: dict[str, Tensor], *, backbone: Backbone) -> None:
    if "logit_scale" in weights:
        weights["logit_scale"] = weights["logit_scale"].reshape(clip.logit_scale.shape)
    if weights.get("visual.positional_embedding", torch.empty(0)).ndim == 2:
        resize_pos_embed(weights, clip)
    wanted = clip.state_dict()
    wrong = sorted(wanted.keys() ^ weights.keys())
    wrong += sorted(key for key in wanted.keys() & weights.keys() if wanted[key].shape != weights[key].shape)
    if wrong:
        raise ValueError(
            f"got pretrained={backbone.pretrained!r}, whose tensors do not fit {backbone.name} "
            f"({len(wrong)} differ, first {wrong[0]}); name the model that the weights were made for"
        )
    clip.load_state_dict(weights)
