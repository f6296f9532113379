"""T2V2T: a reranker that fuses words and visual tokens in both directions, over the first stage of its own.

First stage (VTC): vectors of text and video, apart from each other. Second stage (VTM): does this text match this
video? The losses are those of VindLU; the fusion, see ``fusion``, is what T2V2T adds.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from fpig_core.backbone import VOCABULARY, Backbone, TextTower, build_clip, check_frame_size, settle
from fpig_core.depth import BackboneParameter
from fpig_core.frame_tower import FrameTower
from fpig_core.fusion import Fusion, FusionKind
from fpig_core.hard_negatives import draw_negatives
from fpig_core.losses import contrastive_scores, scores
from fpig_core.masked_words import guessing_loss, hide_words, is_word, mean_over_hidden_words
from fpig_core.normalise import normalise, unit
from fpig_core.precision import at_least_float32
from fpig_core.preprocess import Preprocess
from fpig_core.rows import Noise, Rows, in_micro_batches

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.001, 0.5
NO_MATCH, MATCH = 0, 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class T2V2TConfig:
    """Everything that decides what T2V2T computes.

    ``fusion`` is explained in its module. ``fusion_width=0`` takes the text tower's; the default is that of BERT-base,
    which 12 heads divide (they do not divide the 512 of CLIP's smaller text towers). ``mlm_weight`` above 0 adds masked
    language modelling, meant for pretraining, which hides ``mlm_share`` of the words. ``negative_hardness`` scales the
    logits that hard negatives are drawn by: 1 as published, 0 draws any other sample, which a fusion that knows nothing
    yet learns from sooner.
    """

    backbone: Backbone = Backbone()
    preprocess: Preprocess = Preprocess()
    fusion: FusionKind = "bypass"
    num_layers: int = 3
    num_heads: int = 12
    fusion_width: int = 768
    contrastive_width: int = 256
    temperature_init: float = 0.07
    vtc_weight: float = 1.0
    vtm_weight: float = 1.0
    mlm_weight: float = 0.0
    mlm_share: float = 0.5
    negative_hardness: float = 1.0

    def __post_init__(self) -> None:
        if min(self.num_layers, self.num_heads, self.contrastive_width) < 1 or self.fusion_width < 0:
            raise ValueError(
                f"got num_layers={self.num_layers}, num_heads={self.num_heads}, "
                f"contrastive_width={self.contrastive_width}, fusion_width={self.fusion_width}; "
                "wanted at least 1, and at least 0 for fusion_width"
            )
        if not MIN_TEMPERATURE <= self.temperature_init <= MAX_TEMPERATURE:
            raise ValueError(
                f"got temperature_init={self.temperature_init}, wanted {MIN_TEMPERATURE} to {MAX_TEMPERATURE}"
            )
        if self.negative_hardness < 0:
            raise ValueError(f"got negative_hardness={self.negative_hardness}, wanted at least 0")
        if self.vtc_weight <= 0 or self.vtm_weight <= 0 or self.mlm_weight < 0 or not 0 < self.mlm_share <= 1:
            raise ValueError(
                f"got vtc_weight={self.vtc_weight}, vtm_weight={self.vtm_weight}, mlm_weight={self.mlm_weight}, "
                f"mlm_share={self.mlm_share}; wanted > 0, > 0, at least 0, and in (0, 1]"
            )


class VideoFeatures(NamedTuple):
    """What one pass over videos gives: the first stage's vector, and all tokens (S a frame) for the second."""

    vector_BD: Tensor
    token_BFSV: Tensor


class Features(NamedTuple):
    """What the loss needs: the first stage's unit vectors, the tokens, and what the text tower says of each word.

    ``hidden_word_BLW`` is the latter for texts with hidden words; it and ``is_hidden_BL`` are empty (no rows of words)
    unless words are hidden.
    """

    text_BD: Tensor
    video_BD: Tensor
    token_BFSV: Tensor
    word_BLW: Tensor
    word_BL: Tensor
    hidden_word_BLW: Tensor
    is_hidden_BL: Tensor


class T2V2T(nn.Module):
    """The model. ``config`` is the given one with the activation of its backbone spelled out.

    Raises:
        ValueError: frames do not fit the vision tower, ``num_heads`` does not divide the width, an unfit backbone.
    """

    pretraining_parts: tuple[str, ...] = ("guess",)
    rerank_columns: tuple[str, ...] = ("visual_tokens",)
    optional_rerank_columns: tuple[str, ...] = ()

    def __init__(self, config: T2V2TConfig) -> None:
        super().__init__()
        clip = build_clip(config.backbone)
        visual: Any = clip.visual
        check_frame_size(clip, config.preprocess.size)
        self.config = dataclasses.replace(config, backbone=settle(config.backbone, clip))
        self.text, self.video = TextTower(clip, project=False), FrameTower(visual, project=False)
        text_width = self.text.ln_final.normalized_shape[0]
        width = config.fusion_width or text_width
        self.text_projection = nn.Linear(text_width, config.contrastive_width)
        self.video_projection = nn.Linear(self.video.width, config.contrastive_width)
        self.fusion = Fusion(
            text_width=text_width,
            video_width=self.video.width,
            width=width,
            num_layers=config.num_layers,
            num_heads=config.num_heads,
            kind=config.fusion,
        )
        self.match = nn.Linear(width, 2)
        self.guess = nn.Linear(width, VOCABULARY) if config.mlm_weight else None
        # One element, not a scalar: DeepSpeed cannot broadcast a tensor without dimensions.
        self.logit_scale = nn.Parameter(torch.full((1,), -math.log(config.temperature_init)))

    def encode_text(self, word_QL: Tensor) -> Tensor:
        """L2-normalised text vectors [Q, D] of the first stage in float32."""
        return unit(self.text_projection(self.text(word_QL).text_BD))

    def encode_video(self, frame_BF3HW: Tensor) -> VideoFeatures:
        """Encode uint8 frames, already resized. The vector is of the mean over frames of their CLS tokens."""
        frame_BF3HW = normalise(frame_BF3HW, self.config.preprocess, dtype=self.video.conv1.weight.dtype)
        token_BFSV = self.video(frame_BF3HW)
        return VideoFeatures(unit(self.video_projection(token_BFSV[:, :, 0].mean(dim=1))), token_BFSV)

    def columns(self, video: VideoFeatures) -> dict[str, Tensor]:
        """What a corpus may keep of a video; ``vector`` is searched, ``visual_tokens`` [B, F, S, V] judged."""
        return {"vector": video.vector_BD, "visual_tokens": video.token_BFSV}

    def encode_query(self, word_QL: Tensor) -> dict[str, Tensor]:
        """What ``score`` needs of queries: word features ``words`` [Q, L, W], and ``is_word`` [Q, L]."""
        return {"words": self.text(word_QL).word_BLW, "is_word": is_word(word_QL)}

    def score(self, query: dict[str, Tensor], video: dict[str, Tensor]) -> Tensor:
        """The logit of "match" [n] of n pairs, as VindLU ranks by: not its margin over "no match"."""
        return self._judge(query["words"], video["visual_tokens"], query["is_word"])[:, MATCH]

    def features(self, frame_BF3HW: Tensor, word_BL: Tensor, *, noise: Noise | None = None) -> Features:
        """Features of matching videos and texts, row by row. Words are hidden only with ``noise``."""
        video, text = self.encode_video(frame_BF3HW), self.text(word_BL)
        if self.guess is None or noise is None:
            hidden_word_BLW, is_hidden_BL = text.word_BLW[:, :0], is_word(word_BL)[:, :0]
        else:
            hidden = hide_words(word_BL, share=self.config.mlm_share, noise=noise)
            hidden_word_BLW, is_hidden_BL = self.text(hidden.word_BL).word_BLW, hidden.is_hidden_BL
        return Features(
            text_BD=unit(self.text_projection(text.text_BD)),
            video_BD=video.vector_BD,
            token_BFSV=video.token_BFSV,
            word_BLW=text.word_BLW,
            word_BL=word_BL,
            hidden_word_BLW=hidden_word_BLW,
            is_hidden_BL=is_hidden_BL,
        )

    def loss(self, features: Features, rows: Rows) -> dict[str, Tensor]:
        """L = ``vtc_weight`` · contrastive + ``vtm_weight`` · matching + ``mlm_weight`` · masked words.

        Without ``rows.noise`` the negatives are the hardest, and no words are hidden.
        """
        scale = at_least_float32(self.logit_scale).exp()
        to_video_BG, to_text_BG = scores(features.text_BD, features.video_BD, scale=scale, rows=rows)
        loss_contrastive = contrastive_scores(to_video_BG, to_text_BG, rows=rows, reduction="mean")
        token_BFSV = _clean(features.token_BFSV, rows)
        loss_matching = self._matching_loss(features, token_BFSV, to_video_BG, to_text_BG, rows)
        losses = {"loss_contrastive": loss_contrastive, "loss_matching": loss_matching}
        total = self.config.vtc_weight * loss_contrastive + self.config.vtm_weight * loss_matching
        if features.is_hidden_BL.shape[1]:
            losses["loss_masked_words"] = self._masked_word_loss(features, token_BFSV, rows)
            total = total + self.config.mlm_weight * losses["loss_masked_words"]
        return {"loss": total, **losses, "scale": scale.detach().sum()}

    def backbone_parameters(self) -> Iterator[BackboneParameter]:
        """Parameters that CLIP brought along; all others are new."""
        yield from self.text.clip_parameters()
        yield from self.video.clip_parameters()

    @torch.no_grad()
    def clamp(self) -> None:
        """Keep the temperature within its range; to be called after every optimiser step."""
        self.logit_scale.clamp_(-math.log(MAX_TEMPERATURE), -math.log(MIN_TEMPERATURE))

    def _judge(self, word_nLW: Tensor, token_nFSV: Tensor, is_word_nL: Tensor) -> Tensor:
        """Logits [n, 2] of n pairs, in at least float32, read off the first word: the begin of the text."""
        return at_least_float32(self.match(self.fusion(word_nLW, token_nFSV, is_word_nL)[:, 0]))

    def _matching_loss(
        self, features: Features, token_BFSV: Tensor, to_video_BG: Tensor, to_text_BG: Tensor, rows: Rows
    ) -> Tensor:
        """Mean cross-entropy of three pairs a row: its own, and each half with a hard negative of the other kind."""
        word_BLW, is_word_BL = _clean(features.word_BLW, rows), is_word(features.word_BL)
        hardness = self.config.negative_hardness
        video = draw_negatives(hardness * to_video_BG, rows=rows, name="negative_video")
        text = draw_negatives(hardness * to_text_BG, rows=rows, name="negative_text")
        # Picked outside of the pieces below: a piece is computed twice, and must not meet other workers.
        other_token_BFSV = rows.gather(token_BFSV)[video.index_B]
        other_word_BLW = rows.gather(word_BLW)[text.index_B]
        other_is_word_BL = (rows.gather(is_word_BL.float()) > 0.5)[text.index_B]

        def pair_loss(word_BLW: Tensor, token_BFSV: Tensor, is_word_BL: Tensor, label: int) -> Tensor:
            def of(cut: slice) -> Tensor:
                logit_n2 = self._judge(word_BLW[cut], token_BFSV[cut], is_word_BL[cut])
                label_n = torch.full_like(logit_n2[:, 0], label, dtype=torch.long)
                return nnf.cross_entropy(logit_n2, label_n, reduction="none")

            return in_micro_batches(of, len(word_BLW), size=rows.micro_batch)

        own_B = pair_loss(word_BLW, token_BFSV, is_word_BL, MATCH)
        negative_B = pair_loss(word_BLW, other_token_BFSV, is_word_BL, NO_MATCH)
        negative_B = negative_B + pair_loss(other_word_BLW, token_BFSV, other_is_word_BL, NO_MATCH)
        # Both kinds of negatives exist for all valid rows of the global batch, or, of a single one, for none.
        return rows.mean(torch.where(video.exists_B, (own_B + negative_B) / 3, own_B))

    def _masked_word_loss(self, features: Features, token_BFSV: Tensor, rows: Rows) -> Tensor:
        """Mean cross-entropy of the hidden words, guessed with the help of their own video."""
        guess, word_BL, is_hidden_BL = self.guess, features.word_BL, features.is_hidden_BL
        assert guess is not None
        word_BLW, is_word_BL = _clean(features.hidden_word_BLW, rows), is_word(word_BL)

        def of(cut: slice) -> Tensor:
            fused_nLC = self.fusion(word_BLW[cut], token_BFSV[cut], is_word_BL[cut])
            return guessing_loss(guess(fused_nLC[is_hidden_BL[cut]]), word_BL[cut], is_hidden_BL[cut])

        loss_B = in_micro_batches(of, len(word_BL), size=rows.micro_batch)
        return mean_over_hidden_words(loss_B, is_hidden_BL, rows)


def _clean(x_B: Tensor, rows: Rows) -> Tensor:
    """``rows.clean`` in the dtype at hand: tokens are the bulk of what workers exchange and keep."""
    return rows.clean(x_B).to(x_B.dtype)
