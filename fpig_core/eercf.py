"""EERCF: retrieval from coarse to fine (Tian et al. 2024, arXiv:2401.00701).

The first stage compares a text with one vector a video. The second judges the best of these again by their frames and
patches, which the text weighs: see ``eercf_scores``.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from fpig_core.backbone import Backbone, TextTower, build_clip, check_frame_size, settle
from fpig_core.depth import BackboneParameter
from fpig_core.eercf_scores import (
    ScoreWeights,
    Temperatures,
    VideoFeatures,
    text_gated_frames,
    text_gated_patches,
    text_video_score,
)
from fpig_core.frame_tower import FrameTower
from fpig_core.losses import contrastive_scores, pearson, scores_of_own_videos
from fpig_core.normalise import normalise, unit
from fpig_core.precision import at_least_float32, without_autocast
from fpig_core.preprocess import Preprocess
from fpig_core.rows import Noise, Rows, in_micro_batches
from fpig_core.temporal import TemporalTransformer

MAX_SCALE = 100.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class PearsonWeights:
    """The Pearson constraint's share in the loss for each kind of video vector, and the weights of its two parts."""

    video: float = 0.001
    tib_frame: float = 0.001
    tib_patch: float = 0.0
    diagonal: float = 0.14
    off_diagonal: float = 0.0

    def __post_init__(self) -> None:
        if min(dataclasses.astuple(self)) < 0:
            raise ValueError(f"got {self}, wanted weights of at least 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EercfConfig:
    """Everything that decides what EERCF computes; weights and temperatures are the reference's.

    ``weak`` and ``strong`` are the two scores of training, with their shares in the loss; ``rerank`` is that of the
    second stage. ``gate_by`` says whose text gates a video in training: ``paired_caption`` its own, as the reference,
    ``query`` each caption of the global batch, as in search. ``temporal_init``: see ``temporal``.
    """

    backbone: Backbone = Backbone()
    preprocess: Preprocess = Preprocess()
    temporal_layers: int = 4
    temporal_init: Literal["text", "random"] = "text"
    weak: ScoreWeights = ScoreWeights(video=0.5, weak_frame=0.5, weak_patch=0.05)
    strong: ScoreWeights = ScoreWeights(tib_frame=1.0)
    rerank: ScoreWeights = ScoreWeights(video=0.5, weak_frame=0.8, weak_patch=0.2, tib_frame=0.2)
    weak_share: float = 0.8
    strong_share: float = 0.2
    pearson: PearsonWeights = PearsonWeights()
    temperatures: Temperatures = Temperatures()
    gate_by: Literal["paired_caption", "query"] = "paired_caption"
    logit_scale_init: float = math.log(1 / 0.07)

    def __post_init__(self) -> None:
        if self.temporal_layers < 1:
            raise ValueError(f"got temporal_layers={self.temporal_layers}, wanted at least 1")
        if min(self.weak_share, self.strong_share) < 0 or not self.learns("video"):
            raise ValueError(
                f"got weak_share={self.weak_share}, weak.video={self.weak.video}, strong_share={self.strong_share}, "
                f"strong.video={self.strong.video}; wanted shares of at least 0, and a video term in the loss, "
                "which trains the first stage"
            )
        if not 0 <= self.logit_scale_init <= math.log(MAX_SCALE):
            raise ValueError(f"got logit_scale_init={self.logit_scale_init}, wanted 0 to {math.log(MAX_SCALE):.2f}")

    def learns(self, term: str) -> bool:
        """Whether a term of ``ScoreWeights`` counts in the loss."""
        return self.weak_share * getattr(self.weak, term) + self.strong_share * getattr(self.strong, term) > 0

    @property
    def learns_patches(self) -> bool:
        return self.learns("weak_patch") or self.learns("tib_patch") or self.pearson.tib_patch > 0


class Features(NamedTuple):
    """What the loss needs of matching texts and videos: s·W_g, s, and what ``VideoFeatures`` holds."""

    text_BD: Tensor
    sentence_BD: Tensor
    video_BD: Tensor
    frame_BFD: Tensor
    temporal_BFD: Tensor
    patch_BFPD: Tensor


class TextToVideo(nn.Module):
    """W_g: sentence vectors to what is compared with the vectors of videos. It starts as identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(width))

    def forward(self, text_QD: Tensor) -> Tensor:
        with without_autocast(text_QD):
            return text_QD @ at_least_float32(self.weight)


class Eercf(nn.Module):
    """The model. ``config`` is the given one with the activation of its backbone spelled out.

    Raises:
        ValueError: frames do not fit the vision tower, an unfit backbone, no start for the temporal transformer.
    """

    rerank_columns = ("vector", "frame_vectors", "temporal_frame_vectors")

    def __init__(self, config: EercfConfig) -> None:
        super().__init__()
        clip = build_clip(config.backbone)
        visual: Any = clip.visual
        check_frame_size(clip, config.preprocess.size)
        self.config = dataclasses.replace(config, backbone=settle(config.backbone, clip))
        self.optional_rerank_columns = ("patch_vectors",) if config.rerank.use_patches else ()
        num_frames, width = config.preprocess.num_frames, visual.output_dim
        self.text = TextTower(clip)
        self.video = FrameTower(visual, patches=config.learns_patches or config.rerank.use_patches)
        self.temporal = TemporalTransformer(
            self.text,
            width=width,
            num_frames=num_frames,
            num_layers=config.temporal_layers,
            init=config.temporal_init,
        )
        self.text_to_video = TextToVideo(width)
        self.frame_mix = nn.Parameter(torch.eye(num_frames), requires_grad=config.learns("weak_frame"))
        # One element, not a scalar: DeepSpeed cannot broadcast a tensor without dimensions.
        self.logit_scale = nn.Parameter(torch.full((1,), config.logit_scale_init))

    def encode_text(self, word_QL: Tensor) -> Tensor:
        """Text vectors s·W_g [Q, D] in float32, whose inner product with a video's vector is the video score.

        Not of unit length: W_g changes lengths, and the order of texts for a video depends on them.
        """
        return self.text_to_video(self._sentences(word_QL))

    def encode_video(self, frame_BF3HW: Tensor) -> VideoFeatures:
        """Encode uint8 frames, already resized; vectors are float32, and patches there only if some score uses them.

        Any number of frames gives a vector to search by; the weak frame score needs ``preprocess.num_frames``.
        """
        frame_BF3HW = normalise(frame_BF3HW, self.config.preprocess, dtype=self.video.conv1.weight.dtype)
        token_BFSD = self.video(frame_BF3HW)
        cls_BFD = token_BFSD[:, :, 0]
        temporal_BFD = unit(self.temporal(cls_BFD))
        return VideoFeatures(unit(temporal_BFD.mean(dim=1)), unit(cls_BFD), temporal_BFD, unit(token_BFSD[:, :, 1:]))

    def columns(self, video: VideoFeatures) -> dict[str, Tensor]:
        """What a corpus may keep of a video; ``vector`` is searched."""
        columns = {
            "vector": video.video_BD,
            "frame_vectors": video.frame_BFD,
            "temporal_frame_vectors": video.temporal_BFD,
        }
        return columns | dict.fromkeys(self.optional_rerank_columns, video.patch_BFPD)

    def encode_query(self, word_QL: Tensor) -> dict[str, Tensor]:
        """What ``score`` needs of queries: unit sentence vectors s, and s·W_g, both [Q, D]."""
        sentence_QD = self._sentences(word_QL)
        return {"text": sentence_QD, "text_to_video": self.text_to_video(sentence_QD)}

    def score(self, query: dict[str, Tensor], video: dict[str, Tensor]) -> Tensor:
        """Scores [n] of n pairs, row by row, by ``config.rerank``; each query gates its video.

        They are without the factor τ of training, which changes no order. Without ``patch_vectors`` the terms of
        patches are left out: scores with and without them do not compare.

        Raises:
            ValueError: videos of another number of frames than ``preprocess.num_frames``.
        """
        text_n1D, asking_n1D = (at_least_float32(query[name])[:, None] for name in ("text", "text_to_video"))
        vector_nD, frame_nFD, temporal_nFD = (at_least_float32(video[name]) for name in self.rerank_columns)
        patch_nFPD = video.get("patch_vectors", frame_nFD[:, :, None][:, :, :0])
        pairs = VideoFeatures(vector_nD, frame_nFD, temporal_nFD, at_least_float32(patch_nFPD))
        return self._score(text_n1D, asking_n1D, pairs, weights=self.config.rerank)[:, 0]

    def features(self, frame_BF3HW: Tensor, word_BL: Tensor, *, noise: Noise | None = None) -> Features:
        """Features of matching videos and texts, row by row; nothing here is random."""
        sentence_BD = self._sentences(word_BL)
        video = self.encode_video(frame_BF3HW)
        if not self.config.learns_patches:
            video = video._replace(patch_BFPD=video.patch_BFPD[:, :, :0])
        return Features(self.text_to_video(sentence_BD), sentence_BD, *video)

    def loss(self, features: Features, rows: Rows) -> dict[str, Tensor]:
        """``weak_share`` · InfoNCE(weak) + ``strong_share`` · InfoNCE(strong) + Pearson constraints.

        InfoNCE is the mean of both directions. A worker scores its own videos for all texts, so that texts and scores
        pass between workers, but neither frames nor patches. The parts come with their shares, and add up to the loss.
        """
        config = self.config
        text_BD, sentence_BD, *rest = (rows.clean(x_B) for x_B in features)
        video = VideoFeatures(*rest)
        texts_GD = rows.gather(sentence_BD), rows.gather(text_BD)
        scale = at_least_float32(self.logit_scale).exp()

        def info_nce(weights: ScoreWeights) -> Tensor:
            def to_texts(cut: slice) -> Tensor:
                gate_bD = sentence_BD[cut] if config.gate_by == "paired_caption" else None
                here = VideoFeatures(*(x_B[cut] for x_B in video))
                return self._score(*texts_GD, here, weights=weights, gate_BD=gate_bD)

            to_text_BG = scale * in_micro_batches(to_texts, len(text_BD), size=rows.micro_batch)
            to_video_BG = scores_of_own_videos(to_text_BG, rows)
            return contrastive_scores(to_video_BG, to_text_BG, rows=rows, reduction="mean")

        parts = {"loss_weak": config.weak_share * info_nce(config.weak)} if config.weak_share else {}
        if config.strong_share:
            parts["loss_strong"] = config.strong_share * info_nce(config.strong)
        if (constraint := self._pearson(sentence_BD, video, rows)) is not None:
            parts["loss_pearson"] = constraint
        return {"loss": torch.stack([*parts.values()]).sum(), **parts, "scale": scale.detach().sum()}

    def backbone_parameters(self) -> Iterator[BackboneParameter]:
        """Parameters that CLIP brought along; all others are new, copies in the temporal transformer among them."""
        yield from self.text.clip_parameters()
        yield from self.video.clip_parameters()

    @torch.no_grad()
    def clamp(self) -> None:
        """Keep the factor of the logits within [1, 100]; to be called after every optimiser step."""
        self.logit_scale.clamp_(0.0, math.log(MAX_SCALE))

    def _sentences(self, word_QL: Tensor) -> Tensor:
        return unit(self.text(word_QL).text_BD)

    def _score(
        self,
        text_QD: Tensor,
        text_to_video_QD: Tensor,
        video: VideoFeatures,
        *,
        weights: ScoreWeights,
        gate_BD: Tensor | None = None,
    ) -> Tensor:
        with without_autocast(text_QD):
            return text_video_score(
                text_QD,
                text_to_video_QD,
                video,
                weights=weights,
                temperatures=self.config.temperatures,
                frame_mix_FF=at_least_float32(self.frame_mix),
                gate_BD=gate_BD,
            )

    def _pearson(self, sentence_BD: Tensor, video: VideoFeatures, rows: Rows) -> Tensor | None:
        weights, temperatures = self.config.pearson, self.config.temperatures
        own_B1D = sentence_BD[:, None]
        constrained: list[tuple[float, Tensor]] = []
        with without_autocast(sentence_BD):
            if weights.video:
                constrained.append((weights.video, video.video_BD))
            if weights.tib_frame:
                pooled_B1D = text_gated_frames(own_B1D, video, temperature=temperatures.frame_gate)
                constrained.append((weights.tib_frame, pooled_B1D[:, 0]))
            if weights.tib_patch:
                pooled_B1D = text_gated_patches(own_B1D, video, temperature=temperatures.patch_gate)
                constrained.append((weights.tib_patch, pooled_B1D[:, 0]))
        terms = [
            weight
            * pearson(
                sentence_BD,
                x_BD,
                rows=rows,
                diagonal_weight=weights.diagonal,
                off_diagonal_weight=weights.off_diagonal,
            )
            for weight, x_BD in constrained
        ]
        return torch.stack(terms).sum() if terms else None
