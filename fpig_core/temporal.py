"""Frames that know of each other: the sequential transformer of CLIP4Clip (Luo et al. 2021, arXiv:2104.08860)."""

import copy
from typing import Any, Literal

import torch
from open_clip.transformer import Transformer
from torch import Tensor, nn

from fpig_core.backbone import TextTower
from fpig_core.vip import interpolate_times

POSITION_STD = 0.02


class TemporalTransformer(nn.Module):
    """``g = f + T(f + position)`` over frame vectors of ``width``, without dropout.

    ``init="text"`` starts from copies of the first layers and word positions of CLIP's text transformer, as the
    reference does; layers beyond its depth start at random. ``num_frames`` is the length of the table of positions;
    other lengths are interpolated. Heads are as wide as CLIP's.

    Raises:
        ValueError: ``init="text"`` with a text transformer of another width, or too few word positions.
    """

    def __init__(
        self,
        text: TextTower,
        *,
        width: int,
        num_frames: int,
        num_layers: int,
        init: Literal["text", "random"] = "text",
    ) -> None:
        super().__init__()
        old: Any = text.transformer.resblocks
        text_width = old[0].attn.embed_dim
        heads = max(1, width // (text_width // old[0].attn.num_heads))
        self.transformer = Transformer(width, num_layers, heads, act_layer=type(old[0].mlp.gelu))
        if init == "random":
            self.position = nn.Parameter(torch.randn(num_frames, width) * POSITION_STD)
            return
        if text_width != width or len(text.positional_embedding) < num_frames:
            raise ValueError(
                f"got a text transformer of width {text_width} with {len(text.positional_embedding)} positions, wanted "
                f"width {width} and at least {num_frames} to start the temporal one from; use temporal_init='random'"
            )
        for number, block in enumerate(old[:num_layers]):
            self.transformer.resblocks[number] = copy.deepcopy(block)
        self.position = nn.Parameter(text.positional_embedding.detach()[:num_frames].clone())

    def forward(self, frame_BFD: Tensor) -> Tensor:
        """Frame vectors that have seen the others [B, F, D], not normalised; as CLIP gives them, not at unit length."""
        place_FD = interpolate_times(self.position, frame_BFD.shape[1]).to(frame_BFD.dtype)
        return frame_BFD + self.transformer(frame_BFD + place_FD)
