"""Losses over a global batch that is spread over workers; see ``rows`` for how workers and placeholders are handled.

A worker compares its own B rows with the columns of all G samples. All results are scalars in at least float32.
"""

from typing import Literal

import torch
import torch.nn.functional as nnf
from torch import Tensor

from fpig_core.precision import at_least_float32, without_autocast
from fpig_core.rows import Rows

MIN_STD = 1e-6
"""Of a dimension of unit vectors; less is rounding."""


def contrastive(
    text_BD: Tensor, video_BD: Tensor, *, scale: Tensor, rows: Rows, reduction: Literal["sum", "mean"]
) -> Tensor:
    """Cross-entropy of matching L2-normalised texts and videos, summed or averaged over both directions.

    Zero with zero gradients if the global batch has no valid sample.
    """
    return contrastive_scores(*scores(text_BD, video_BD, scale=scale, rows=rows), rows=rows, reduction=reduction)


def scores(text_BD: Tensor, video_BD: Tensor, *, scale: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    """Scaled inner products [B, G]: of each own text with all videos, and of each own video with all texts."""
    with without_autocast(text_BD):
        text_BD, video_BD, scale = rows.clean(text_BD), rows.clean(video_BD), at_least_float32(scale)
        return (scale * text_BD) @ rows.gather(video_BD).T, (scale * video_BD) @ rows.gather(text_BD).T


def contrastive_scores(
    to_video_BG: Tensor, to_text_BG: Tensor, *, rows: Rows, reduction: Literal["sum", "mean"]
) -> Tensor:
    """The same of given scores: of each own text with all videos, and of each own video with all texts."""
    total = _cross_entropy(to_video_BG, rows) + _cross_entropy(to_text_BG, rows)
    return total if reduction == "sum" else total / 2


def scores_of_own_videos(to_video_BG: Tensor, rows: Rows) -> Tensor:
    """Scores of each own video with all texts, from what all workers know of their own texts with all videos."""
    return rows.gather(to_video_BG)[:, rows.own].T


def reconstruction(pseudo_query_BD: Tensor, text_BD: Tensor, *, rows: Rows) -> Tensor:
    """Mean of 2 − 2·cos(pseudo-query, text) over the valid samples of the global batch."""
    with without_autocast(text_BD):
        cosine_B = nnf.cosine_similarity(rows.clean(pseudo_query_BD), rows.clean(text_BD), dim=-1)
        return rows.mean(2 - 2 * cosine_B)


def pearson(text_BD: Tensor, x_BD: Tensor, *, rows: Rows, diagonal_weight: float, off_diagonal_weight: float) -> Tensor:
    """How far matching dimensions of text and video are from correlating, over the valid rows of the global batch.

    ``diagonal_weight · Σ_d (C_dd − 1)² + off_diagonal_weight · Σ_{i≠j} C_ij²`` with C the D × D matrix of Pearson
    correlations (EERCF, Tian et al. 2024, arXiv:2401.00701). A dimension without spread correlates with none and gets
    no gradient; so do all if there are fewer than two valid rows. Zero without any valid row.
    """
    with without_autocast(text_BD):
        text_GD, x_GD = (_standardised(rows.gather(rows.clean(y_BD)), rows.valid_G) for y_BD in (text_BD, x_BD))
        num_rows = rows.valid_G.sum().clamp(min=1)
        diagonal_D = (text_GD * x_GD).sum(dim=0) / num_rows
        loss = diagonal_weight * (diagonal_D - 1).square().sum()
        if off_diagonal_weight:
            correlation_DD = text_GD.T @ x_GD / num_rows
            loss = loss + off_diagonal_weight * (correlation_DD.square().sum() - diagonal_D.square().sum())
        return torch.where(rows.valid_G.any(), loss, 0.0)


def _standardised(x_GD: Tensor, valid_G: Tensor) -> Tensor:
    """Mean 0 and standard deviation 1 in each dimension over the valid rows; zeros in the others."""
    num_rows = valid_G.sum().clamp(min=1)
    centred_GD = (x_GD - x_GD.sum(dim=0) / num_rows) * valid_G[:, None]
    variance_D = centred_GD.square().sum(dim=0) / num_rows
    spread_D = variance_D > MIN_STD**2
    return centred_GD * torch.where(spread_D, torch.where(spread_D, variance_D, 1.0).rsqrt(), 0.0)


def _cross_entropy(score_BG: Tensor, rows: Rows) -> Tensor:
    # finite, so that a row without any valid column stays free of NaN
    score_BG = at_least_float32(score_BG).masked_fill(~rows.valid_G, torch.finfo(torch.float32).min / 2)
    target_B = torch.arange(rows.own.start, rows.own.stop, device=score_BG.device)
    return rows.mean(nnf.cross_entropy(score_BG, target_B, reduction="none"))
