"""Two-tower baselines: a video is pooled without any query."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from fpig_core.backbone import Backbone, TextTower, build_clip, check_frame_size, settle
from fpig_core.depth import BackboneParameter
from fpig_core.frame_tower import FrameTower
from fpig_core.losses import contrastive
from fpig_core.normalise import normalise, unit
from fpig_core.precision import at_least_float32
from fpig_core.preprocess import Preprocess
from fpig_core.rows import Noise, Rows
from fpig_core.vip import VipEncoder

MAX_SCALE = 100.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoTowerConfig:
    """Which vectors are pooled.

    ``mean_pool``: CLIP's vector of every frame by itself (CLIP4Clip's parameter-free pooling). ``vip_cls``: the CLS
    vector of the video encoder of F-Pig. ``vip_mean``: its CLS, added_cls and frame_cls vectors, F-Pig's interaction
    made uniform. ``num_added_cls`` and ``added_cls_init`` concern the latter two.
    """

    backbone: Backbone = Backbone()
    preprocess: Preprocess = Preprocess()
    pooling: Literal["mean_pool", "vip_cls", "vip_mean"] = "mean_pool"
    num_added_cls: int = 3
    added_cls_init: Literal["normal", "cls"] = "normal"
    logit_scale_init: float = 4.60

    def __post_init__(self) -> None:
        if self.num_added_cls < 0 or not 0 <= self.logit_scale_init <= math.log(MAX_SCALE):
            raise ValueError(
                f"got num_added_cls={self.num_added_cls}, logit_scale_init={self.logit_scale_init}; "
                f"wanted at least 0, and 0 to {math.log(MAX_SCALE):.2f}"
            )


class VideoFeatures(NamedTuple):
    """L2-normalised vectors of videos."""

    video_BD: Tensor


class Features(NamedTuple):
    """L2-normalised vectors of matching texts and videos."""

    text_BD: Tensor
    video_BD: Tensor


class TwoTower(nn.Module):
    """CLIP for videos. ``config`` is the given one with the activation of its backbone spelled out.

    Raises:
        ValueError: frames do not fit the vision tower, an unfit backbone.
    """

    def __init__(self, config: TwoTowerConfig) -> None:
        super().__init__()
        clip = build_clip(config.backbone)
        visual: Any = clip.visual
        check_frame_size(clip, config.preprocess.size)
        self.config = dataclasses.replace(config, backbone=settle(config.backbone, clip))
        self.text = TextTower(clip)
        if config.pooling == "mean_pool":
            self.video: FrameTower | VipEncoder = FrameTower(visual, patches=False)
        else:
            self.video = VipEncoder(
                visual,
                num_frames=config.preprocess.num_frames,
                num_added_cls=config.num_added_cls,
                added_cls_init=config.added_cls_init,
            )
        # One element, not a scalar: DeepSpeed cannot broadcast a tensor without dimensions.
        self.logit_scale = nn.Parameter(torch.full((1,), config.logit_scale_init))

    def encode_text(self, word_QL: Tensor) -> Tensor:
        """L2-normalised text vectors [Q, D] in float32."""
        return unit(self.text(word_QL).text_BD)

    def encode_video(self, frame_BF3HW: Tensor) -> VideoFeatures:
        """Encode uint8 frames, already resized; vectors are float32."""
        frame_BF3HW = normalise(frame_BF3HW, self.config.preprocess, dtype=self.video.conv1.weight.dtype)
        if isinstance(self.video, FrameTower):
            return VideoFeatures(unit(unit(self.video(frame_BF3HW)[:, :, 0]).mean(dim=1)))
        token_BND = self.video(frame_BF3HW).token_BND
        if self.config.pooling == "vip_cls":
            return VideoFeatures(unit(token_BND[:, 0]))
        return VideoFeatures(unit(unit(self.video.summary(token_BND)).mean(dim=1)))

    def columns(self, video: VideoFeatures) -> dict[str, Tensor]:
        """What a corpus may keep of a video; ``vector`` is searched."""
        return {"vector": video.video_BD}

    def features(self, frame_BF3HW: Tensor, word_BL: Tensor, *, noise: Noise | None = None) -> Features:
        """Features of matching videos and texts, row by row; nothing here is random."""
        return Features(self.encode_text(word_BL), self.encode_video(frame_BF3HW).video_BD)

    def loss(self, features: Features, rows: Rows) -> dict[str, Tensor]:
        """Symmetric InfoNCE, the mean of both directions (CLIP4Clip, Luo et al. 2021, section 3.4)."""
        scale = at_least_float32(self.logit_scale).exp()
        loss = contrastive(features.text_BD, features.video_BD, scale=scale, rows=rows, reduction="mean")
        return {"loss": loss, "scale": scale.detach().sum()}

    @torch.no_grad()
    def clamp(self) -> None:
        """Keep the factor of the logits within [1, 100]; to be called after every optimiser step."""
        self.logit_scale.clamp_(0.0, math.log(MAX_SCALE))

    def backbone_parameters(self) -> Iterator[BackboneParameter]:
        """Parameters that CLIP brought along; all others are new."""
        yield from self.text.clip_parameters()
        yield from self.video.clip_parameters()
