"""F-Pig: a two-tower retriever whose video vector has met a query that the video itself made up.

Video → tokens (``vip``) → the most telling patches (``selector``) → pseudo-query (``generator``) → fused vector
(``interaction``). Retrieval is the cosine of text vector and fused vector: one vector a video.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from fpig_core.backbone import Backbone, TextTower, build_clip, check_frame_size, settle
from fpig_core.depth import BackboneParameter
from fpig_core.generator import PseudoQueryGenerator
from fpig_core.interaction import PseudoInteraction
from fpig_core.losses import contrastive, reconstruction
from fpig_core.normalise import normalise, unit
from fpig_core.precision import at_least_float32
from fpig_core.preprocess import Preprocess
from fpig_core.rows import Noise, Rows
from fpig_core.selector import Selection, select_tokens
from fpig_core.vip import VipEncoder

MAX_SCALE = 200.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class FPigConfig:
    """Everything that decides what F-Pig computes; the defaults are the reference's.

    ``added_cls_init="cls"`` starts the added tokens from CLIP's class embedding, far better than ``normal`` before
    training. ``residual`` adds the CLS vector to the fused one, both at unit length: ``add`` evenly,
    ``learned_mix`` by a learned share. ``interaction_query="cls"`` lets CLS ask instead of the pseudo-query (ablation).
    ``stage="generator"`` trains the generator alone, with the reconstruction loss, and validates the pseudo-query.
    """

    backbone: Backbone = Backbone()
    preprocess: Preprocess = Preprocess()
    num_selected: int = 16
    num_added_cls: int = 3
    added_cls_init: Literal["normal", "cls"] = "normal"
    selector_reduce: Literal["max", "mean"] = "max"
    use_bos: bool = True
    train_bos_eos: bool = True
    project: bool = True
    interaction_temperature: float = 1.0
    interaction_query: Literal["pseudo_query", "cls"] = "pseudo_query"
    residual: Literal["none", "add", "learned_mix"] = "none"
    dropout: float = 0.1
    detach_target: bool = False
    recon_weight: float = 1.0
    logit_scale_init: float = 4.60
    stage: Literal["retrieval", "generator"] = "retrieval"

    def __post_init__(self) -> None:
        if self.num_selected < 1 or self.num_added_cls < 0:
            raise ValueError(
                f"got num_selected={self.num_selected}, num_added_cls={self.num_added_cls}; "
                "wanted at least 1 and at least 0"
            )
        if self.interaction_temperature <= 0 or not 0 <= self.dropout < 1 or self.recon_weight < 0:
            raise ValueError(
                f"got interaction_temperature={self.interaction_temperature}, dropout={self.dropout}, "
                f"recon_weight={self.recon_weight}; wanted > 0, in [0, 1), and at least 0"
            )
        if not 0 <= self.logit_scale_init <= math.log(MAX_SCALE):
            raise ValueError(f"got logit_scale_init={self.logit_scale_init}, wanted 0 to {math.log(MAX_SCALE):.2f}")


class VideoFeatures(NamedTuple):
    """What one pass over videos gives: to search, to train and to draw."""

    fused_BD: Tensor
    unfused_BD: Tensor
    pseudo_query_BD: Tensor
    selection: Selection


class Features(NamedTuple):
    """What the loss needs: L2-normalised texts and videos, raw pseudo-queries."""

    text_BD: Tensor
    video_BD: Tensor
    pseudo_query_BD: Tensor


class FPig(nn.Module):
    """The model. ``config`` is the given one with the activation of its backbone spelled out.

    Raises:
        ValueError: frames do not fit the vision tower, fewer patches than ``num_selected``, an unfit backbone.
    """

    def __init__(self, config: FPigConfig) -> None:
        super().__init__()
        clip = build_clip(config.backbone)
        visual: Any = clip.visual
        self.config = dataclasses.replace(config, backbone=settle(config.backbone, clip))
        preprocess = config.preprocess
        check_frame_size(clip, preprocess.size)
        self.text = TextTower(clip)
        self.video = VipEncoder(
            visual,
            num_frames=preprocess.num_frames,
            num_added_cls=config.num_added_cls,
            added_cls_init=config.added_cls_init,
        )
        num_patches = preprocess.num_frames * self.video.num_patches
        if config.num_selected > num_patches:
            raise ValueError(
                f"got num_selected={config.num_selected}, but a video has {num_patches} patches; use fewer"
            )
        self.generator = PseudoQueryGenerator(
            self.text,
            token_width=visual.output_dim,
            num_tokens=self.video.num_globals + preprocess.num_frames + config.num_selected,
            use_bos=config.use_bos,
            train_bos_eos=config.train_bos_eos,
            project=config.project,
        )
        self.interaction = PseudoInteraction(visual.output_dim, temperature=config.interaction_temperature)
        self.residual_mix = nn.Parameter(torch.zeros(1)) if config.residual == "learned_mix" else None
        # One element, not a scalar: DeepSpeed cannot broadcast a tensor without dimensions.
        self.logit_scale = nn.Parameter(torch.full((1,), config.logit_scale_init))
        if config.stage == "generator":
            self.requires_grad_(False)
            self.generator.requires_grad_(True)

    def encode_text(self, word_BL: Tensor) -> Tensor:
        """L2-normalised text vectors [B, D] in float32."""
        return unit(self.text(word_BL).text_BD)

    def encode_video(self, frame_BF3HW: Tensor, *, noise: Noise | None = None) -> VideoFeatures:
        """Encode uint8 frames, already resized; vectors are float32. ``noise`` drives dropout: none without it."""
        frame_BF3HW = normalise(frame_BF3HW, self.config.preprocess, dtype=self.video.conv1.weight.dtype)
        with self._frozen_in_generator_stage():
            token_BND, attention_BHN = self.video(frame_BF3HW)
        summary_BSD = self.video.summary(token_BND)
        selection = select_tokens(
            token_BND,
            attention_BHN,
            is_patch_N=self.video.is_patch(token_BND.shape[1], device=token_BND.device),
            num_selected=self.config.num_selected,
            reduce=self.config.selector_reduce,
        )
        pseudo_query_BD = self.generator(torch.cat([summary_BSD, selection.token_BKD], dim=1))
        cls_BD = token_BND[:, 0]
        asking_BD = pseudo_query_BD if self.config.interaction_query == "pseudo_query" else cls_BD
        fused_BD = unit(self.interaction(asking_BD, summary_BSD, keep_BD=self._keep(cls_BD, noise)))
        unfused_BD = unit(cls_BD)
        if self.config.residual == "add":
            fused_BD = unit(fused_BD + unfused_BD)
        elif self.residual_mix is not None:
            fused_BD = unit(torch.lerp(unfused_BD, fused_BD, at_least_float32(self.residual_mix).sigmoid()))
        return VideoFeatures(fused_BD, unfused_BD, at_least_float32(pseudo_query_BD), selection)

    def columns(self, video: VideoFeatures) -> dict[str, Tensor]:
        """What a corpus may keep of a video; ``vector`` is searched."""
        return {
            "vector": video.fused_BD,
            "vector_unfused": video.unfused_BD,
            "pseudo_query": video.pseudo_query_BD,
            "selected_tokens": video.selection.index_BK,
        }

    def features(self, frame_BF3HW: Tensor, word_BL: Tensor, *, noise: Noise | None = None) -> Features:
        """Features of matching videos and texts, row by row."""
        video = self.encode_video(frame_BF3HW, noise=noise)
        found_by_BD = video.fused_BD if self.config.stage == "retrieval" else unit(video.pseudo_query_BD)
        with self._frozen_in_generator_stage():
            text_BD = self.encode_text(word_BL)
        return Features(text_BD, found_by_BD, video.pseudo_query_BD)

    def loss(self, features: Features, rows: Rows) -> dict[str, Tensor]:
        """L = L_cons (sum of both directions, global batch) + ``recon_weight`` · L_recon; see ``losses``."""
        target_BD = features.text_BD.detach() if self.config.detach_target else features.text_BD
        loss_reconstruction = reconstruction(features.pseudo_query_BD, target_BD, rows=rows)
        if self.config.stage == "generator":
            return {"loss": loss_reconstruction}
        scale = at_least_float32(self.logit_scale).exp()
        loss_contrastive = contrastive(features.text_BD, features.video_BD, scale=scale, rows=rows, reduction="sum")
        return {
            "loss": loss_contrastive + self.config.recon_weight * loss_reconstruction,
            "loss_contrastive": loss_contrastive,
            "loss_reconstruction": loss_reconstruction,
            "scale": scale.detach().sum(),
        }

    def backbone_parameters(self) -> Iterator[BackboneParameter]:
        """Parameters that CLIP brought along; all others are new."""
        yield from self.text.clip_parameters()
        yield from self.video.clip_parameters()

    @torch.no_grad()
    def clamp(self) -> None:
        """Keep the factor of the logits within [1, 200]; to be called after every optimiser step."""
        self.logit_scale.clamp_(0.0, math.log(MAX_SCALE))

    def _frozen_in_generator_stage(self) -> AbstractContextManager[None]:
        """Nothing is kept for a backward pass that will not come."""
        return torch.no_grad() if self.config.stage == "generator" else contextlib.nullcontext()

    def _keep(self, like_BD: Tensor, noise: Noise | None) -> Tensor | None:
        if noise is None or not self.config.dropout:
            return None
        return noise.keep("interaction", *like_BD.shape, rate=self.config.dropout, device=like_BD.device)
