"""The scores of EERCF, each a function of unit vectors (Tian et al. 2024, arXiv:2401.00701)."""

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor

from fpig_core.text_gate import soft_max_score, text_gated_pool


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreWeights:
    """A score as a weighted sum of terms; terms of weight 0 are not computed.

    ``video``: the first stage's. ``weak_frame``, ``weak_patch``: similarities to the text, weighed by themselves.
    ``tib_frame``, ``tib_patch``: similarity to what the text-gated interaction block pools.
    """

    video: float = 0.0
    weak_frame: float = 0.0
    weak_patch: float = 0.0
    tib_frame: float = 0.0
    tib_patch: float = 0.0

    def __post_init__(self) -> None:
        if min(weights := dataclasses.astuple(self)) < 0 or not any(weights):
            raise ValueError(f"got {self}, wanted weights of at least 0, and one above")

    @property
    def use_patches(self) -> bool:
        return self.weak_patch > 0 or self.tib_patch > 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Temperatures:
    """Of the softmax over similarities: in the weak scores, and in the gates of frames and of patches."""

    weak: float = 0.01
    frame_gate: float = 0.1
    patch_gate: float = 0.01

    def __post_init__(self) -> None:
        if min(dataclasses.astuple(self)) <= 0:
            raise ValueError(f"got {self}, wanted temperatures above 0")


class VideoFeatures(NamedTuple):
    """L2-normalised: the first stage's vector, frames by themselves, frames that saw each other, patches.

    With P = 0 patches the terms of patches are zero.
    """

    video_BD: Tensor
    frame_BFD: Tensor
    temporal_BFD: Tensor
    patch_BFPD: Tensor


def text_gated_frames(text_QD: Tensor, video: VideoFeatures, *, temperature: float) -> Tensor:
    """What each text takes of the frames [B, Q, D]; texts [Q, D] for all videos, or [B, Q, D]."""
    return text_gated_pool(text_QD @ video.frame_BFD.mT, video.temporal_BFD, temperature=temperature)


def text_gated_patches(text_QD: Tensor, video: VideoFeatures, *, temperature: float) -> Tensor:
    """What each text takes of all patches [B, Q, D]; texts [Q, D] for all videos, or [B, Q, D]."""
    patch_BND = video.patch_BFPD.flatten(1, 2)
    return text_gated_pool(text_QD @ patch_BND.mT, patch_BND, temperature=temperature)


def text_video_score(
    text_QD: Tensor,
    text_to_video_QD: Tensor,
    video: VideoFeatures,
    *,
    weights: ScoreWeights,
    temperatures: Temperatures,
    frame_mix_FF: Tensor,
    gate_BD: Tensor | None = None,
) -> Tensor:
    """Scores of texts for videos [B, Q], without the factor τ.

    Texts s and s·W_g are [Q, D] for all videos, or [B, Q, D], for each video its own. They gate the videos, unless
    ``gate_BD`` gives each video one text to be gated by.

    Raises:
        ValueError: videos of another number of frames than ``frame_mix_FF`` is for.
    """
    gate_QD = text_QD if gate_BD is None else gate_BD[:, None]
    terms: list[Tensor] = []
    if weights.video:
        terms.append(weights.video * (text_to_video_QD @ video.video_BD[..., None])[..., 0])
    if weights.weak_frame:
        if (num_frames := video.frame_BFD.shape[1]) != len(frame_mix_FF):
            raise ValueError(
                f"got videos of {num_frames} frames, but the weights of frames were learnt for {len(frame_mix_FF)}; "
                f"encode them with preprocess.num_frames={len(frame_mix_FF)}"
            )
        similarity_BQF = text_QD @ video.frame_BFD.mT
        score_BQ = soft_max_score(similarity_BQF, temperature=temperatures.weak, mix_NN=frame_mix_FF)
        terms.append(weights.weak_frame * score_BQ)
    if weights.weak_patch:
        similarity_BQN = text_QD @ video.patch_BFPD.flatten(1, 2).mT
        terms.append(weights.weak_patch * soft_max_score(similarity_BQN, temperature=temperatures.weak))
    if weights.tib_frame:
        pooled_BQD = text_gated_frames(gate_QD, video, temperature=temperatures.frame_gate)
        terms.append(weights.tib_frame * _dot(text_QD, pooled_BQD))
    if weights.tib_patch:
        pooled_BQD = text_gated_patches(gate_QD, video, temperature=temperatures.patch_gate)
        terms.append(weights.tib_patch * _dot(text_QD, pooled_BQD))
    return torch.stack(terms).sum(dim=0)


def _dot(text_QD: Tensor, pooled_BQD: Tensor) -> Tensor:
    """Each text with what it pooled itself, or with the only one that was pooled."""
    if pooled_BQD.shape[1] == 1:
        return (text_QD @ pooled_BQD.mT)[..., 0]
    return (text_QD * pooled_BQD).sum(dim=-1)
