"""CLIP's vision tower on every frame by itself."""

from collections.abc import Iterator
from typing import Any

import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from fpig_core.depth import BackboneParameter, parameters_by_depth


class FrameTower(nn.Module):
    """Frames to tokens, with the parameters of ``visual`` (shared, not copied).

    Token 0 of a frame is its CLS, the others are its patches (left out with ``patches=False``). They are in the shared
    space, or with ``project=False`` in the tower's own, after its last norm.
    """

    def __init__(self, visual: VisionTransformer, *, patches: bool = True, project: bool = True) -> None:
        super().__init__()
        assert visual.proj is not None
        self.num_patches = visual.grid_size[0] * visual.grid_size[1]
        self.patches = patches
        self.width = visual.proj.shape[1] if project else visual.proj.shape[0]
        self.conv1 = visual.conv1
        self.class_embedding = visual.class_embedding
        self.positional_embedding = visual.positional_embedding
        self.ln_pre, self.transformer, self.ln_post = visual.ln_pre, visual.transformer, visual.ln_post
        self.proj = visual.proj if project else None

    def clip_parameters(self) -> Iterator[BackboneParameter]:
        """Parameters that came from CLIP: all."""
        return parameters_by_depth(self, [*self.transformer.resblocks])

    def forward(self, frame_BF3HW: Tensor) -> Tensor:
        """Tokens [B, F, 1 + P, width] of normalised float frames; [B, F, 1, width] without patches."""
        frame_b3HW = frame_BF3HW.flatten(0, 1)
        patch_bPV = self.conv1(frame_b3HW).flatten(2).transpose(1, 2)
        cls_b1V = self.class_embedding.to(patch_bPV.dtype).expand(len(patch_bPV), 1, -1)
        x_bSV = torch.cat([cls_b1V, patch_bPV], dim=1) + self.positional_embedding.to(patch_bPV.dtype)
        x_bSV: Any = self.transformer(self.ln_pre(x_bSV))
        x_bSV = self.ln_post(x_bSV if self.patches else x_bSV[:, :1])
        if self.proj is not None:
            x_bSV = x_bSV @ self.proj
        return x_bSV.unflatten(0, frame_BF3HW.shape[:2])
