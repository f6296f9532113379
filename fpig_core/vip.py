"""Video encoder of F-Pig: CLIP's vision tower with CLIP-ViP attention (methods of the CLIP-ViP reference code).

Tokens: ``CLS · added_cls × (M−1) · F × (frame_cls · P patches)``. In every layer the M global tokens attend to all N
tokens; the tokens of a frame attend to the global tokens and to their own frame. Nothing else differs from CLIP.
"""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as nnf
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fpig_core.depth import BackboneParameter, parameters_by_depth
from fpig_core.precision import at_least_float32, without_autocast

ADDED_CLS_NOISE = 0.02


class VideoTokens(NamedTuple):
    """All tokens in the shared space, and how CLS of the last layer attends to them, for each of the H heads.

    The attention has no gradients.
    """

    token_BND: Tensor
    attention_BHN: Tensor


class VipAttention(nn.Module):
    """The two attentions of CLIP-ViP over one projection to q, k and v, with CLIP's weights."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        assert attention.in_proj_weight is not None
        self.num_heads = attention.num_heads
        self.qkv = nn.Linear(attention.embed_dim, 3 * attention.embed_dim, device="meta")
        self.qkv.weight, self.qkv.bias = attention.in_proj_weight, attention.in_proj_bias
        self.out_proj = attention.out_proj

    def forward(self, x_BNV: Tensor, *, num_globals: int, num_frames: int, with_weights: bool) -> tuple[Tensor, Tensor]:
        """Mixed tokens [B, N, V] and CLS's attention [B, H, N] in at least float32 (empty without ``with_weights``)."""
        B, N, V = x_BNV.shape
        H, M, F = self.num_heads, num_globals, num_frames
        S = (N - M) // F
        qkv_BN3HE = self.qkv(x_BNV).view(B, N, 3, H, V // H)
        q_BHNE, k_BHNE, v_BHNE = qkv_BN3HE.permute(2, 0, 3, 1, 4).unbind()
        global_BHME = nnf.scaled_dot_product_attention(q_BHNE[:, :, :M], k_BHNE, v_BHNE)

        q_fHSE = qkv_BN3HE[:, M:, 0].reshape(B * F, S, H, V // H).transpose(1, 2)
        shared_BFM2HE = qkv_BN3HE[:, None, :M, 1:].expand(B, F, M, 2, H, V // H)
        own_BFS2HE = qkv_BN3HE[:, M:, 1:].reshape(B, F, S, 2, H, V // H)
        kv_f2HE = torch.cat([shared_BFM2HE, own_BFS2HE], dim=2).view(B * F, M + S, 2, H, V // H)
        k_fHE, v_fHE = kv_f2HE.permute(2, 0, 3, 1, 4).unbind()
        frame_fHSE = nnf.scaled_dot_product_attention(q_fHSE, k_fHE, v_fHE)

        mixed_BNV = torch.cat(
            [global_BHME.transpose(1, 2).reshape(B, M, V), frame_fHSE.transpose(1, 2).reshape(B, F * S, V)], dim=1
        )
        weights_BHN = _attention_of_cls(q_BHNE[:, :, 0], k_BHNE) if with_weights else x_BNV.new_empty(0)
        return self.out_proj(mixed_BNV), weights_BHN


@torch.no_grad()
def _attention_of_cls(q_BHE: Tensor, k_BHNE: Tensor) -> Tensor:
    """For choosing tokens only: without gradients, and with digits that tell near ones apart."""
    with without_autocast(q_BHE):
        logit_BHN = torch.einsum("bhe,bhne->bhn", at_least_float32(q_BHE), at_least_float32(k_BHNE))
        return (logit_BHN * q_BHE.shape[-1] ** -0.5).softmax(dim=-1)


class VipBlock(nn.Module):
    """One residual block of CLIP's vision tower with its attention replaced."""

    def __init__(self, block: ResidualAttentionBlock) -> None:
        super().__init__()
        self.ln_1, self.ls_1 = block.ln_1, block.ls_1
        self.attn = VipAttention(block.attn)
        self.ln_2, self.mlp, self.ls_2 = block.ln_2, block.mlp, block.ls_2

    def forward(self, x_BNV: Tensor, *, num_globals: int, num_frames: int, with_weights: bool) -> tuple[Tensor, Tensor]:
        mixed_BNV, weights_BHN = self.attn(
            self.ln_1(x_BNV), num_globals=num_globals, num_frames=num_frames, with_weights=with_weights
        )
        x_BNV = x_BNV + self.ls_1(mixed_BNV)
        return x_BNV + self.ls_2(self.mlp(self.ln_2(x_BNV))), weights_BHN


class VipEncoder(nn.Module):
    """Frames to tokens. It takes over the parameters of ``visual`` (shared, not copied).

    ``num_frames`` is the length of the table of times; other lengths are interpolated. Without ``frame_cls`` and with
    ``num_added_cls=0`` a single frame gives exactly what ``visual`` gives.
    """

    def __init__(
        self,
        visual: VisionTransformer,
        *,
        num_frames: int,
        num_added_cls: int = 3,
        added_cls_init: Literal["normal", "cls"] = "normal",
        frame_cls: bool = True,
    ) -> None:
        super().__init__()
        self.num_globals = 1 + num_added_cls
        self.num_patches = visual.grid_size[0] * visual.grid_size[1]
        self.conv1 = visual.conv1
        self.class_embedding = visual.class_embedding
        self.positional_embedding = visual.positional_embedding
        self.ln_pre = visual.ln_pre
        blocks: Any = visual.transformer.resblocks
        self.blocks = nn.ModuleList(VipBlock(block) for block in blocks)
        self.ln_post = visual.ln_post
        self.proj = visual.proj
        cls_V = visual.class_embedding.detach()
        added_AV = torch.randn(num_added_cls, len(cls_V))
        if added_cls_init == "cls":
            added_AV = cls_V + ADDED_CLS_NOISE * added_AV
        self.added_cls = nn.Parameter(added_AV) if num_added_cls else None
        self.frame_cls = nn.Parameter(cls_V.clone()) if frame_cls else None
        self.temporal_embedding = nn.Parameter(torch.zeros(num_frames, len(cls_V)))
        self.grad_checkpointing = False

    def clip_parameters(self) -> Iterator[BackboneParameter]:
        """Parameters that came from CLIP."""
        return parameters_by_depth(self, [*self.blocks], new=("added_cls", "frame_cls", "temporal_embedding"))

    @property
    def frame_width(self) -> int:
        """Tokens of one frame: P, and one more for frame_cls."""
        return self.num_patches + (self.frame_cls is not None)

    def num_tokens(self, num_frames: int) -> int:
        """N of a video of ``num_frames`` frames."""
        return self.num_globals + num_frames * self.frame_width

    def summary(self, token_BND: Tensor) -> Tensor:
        """CLS, added_cls and frame_cls among the tokens: [B, M + F, D]. It needs ``frame_cls``."""
        return torch.cat([token_BND[:, : self.num_globals], token_BND[:, self.num_globals :: self.frame_width]], dim=1)

    def is_patch(self, num_tokens: int, *, device: torch.device) -> Tensor:
        """Which of the tokens are patches: bool [N]."""
        place_N = torch.arange(num_tokens, device=device) - self.num_globals
        return (place_N >= 0) & (place_N % self.frame_width >= self.frame_width - self.num_patches)

    def forward(self, frame_BF3HW: Tensor) -> VideoTokens:
        """Encode normalised float frames."""
        x_BNV = self.ln_pre(self._embed(frame_BF3HW))
        attention_BHN = x_BNV.new_empty(0)
        shape: dict[str, Any] = {"num_globals": self.num_globals, "num_frames": frame_BF3HW.shape[1]}
        for number, block in enumerate(self.blocks, start=1):
            shape["with_weights"] = number == len(self.blocks)
            if self.grad_checkpointing:
                x_BNV, attention_BHN = checkpoint(block, x_BNV, **shape, use_reentrant=False, preserve_rng_state=False)
            else:
                x_BNV, attention_BHN = block(x_BNV, **shape)
        return VideoTokens(self.ln_post(x_BNV) @ self.proj, attention_BHN)

    def _embed(self, frame_BF3HW: Tensor) -> Tensor:
        B, F = frame_BF3HW.shape[:2]
        patch_BFPV = self.conv1(frame_BF3HW.flatten(0, 1)).flatten(2).transpose(1, 2).unflatten(0, (B, F))
        dtype = patch_BFPV.dtype
        place_1V, place_PV = self.positional_embedding[:1].to(dtype), self.positional_embedding[1:].to(dtype)
        time_F1V = interpolate_times(self.temporal_embedding, F).to(dtype)[:, None]
        frame_BFSV = patch_BFPV + place_PV + time_F1V
        if self.frame_cls is not None:
            frame_cls_F1V = self.frame_cls.to(dtype) + place_1V + time_F1V
            frame_BFSV = torch.cat([frame_cls_F1V.expand(B, F, 1, -1), frame_BFSV], dim=2)
        global_MV = self.class_embedding.to(dtype)[None]
        if self.added_cls is not None:
            global_MV = torch.cat([global_MV, self.added_cls.to(dtype)])
        global_BMV = (global_MV + place_1V).expand(B, -1, -1)
        return torch.cat([global_BMV, frame_BFSV.flatten(1, 2)], dim=1)


def interpolate_times(time_FV: Tensor, num_frames: int) -> Tensor:
    """A table of times of another length, linear between the centres of frames; the same table for the same length."""
    if num_frames == len(time_FV):
        return time_FV
    return nnf.interpolate(time_FV.T[None], size=num_frames, mode="linear")[0].T
