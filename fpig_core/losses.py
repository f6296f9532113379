"""Losses over a global batch that is spread over workers, with placeholders left out.

A worker compares its own B rows with the columns of all G samples. ``gather`` turns [B, …] into [G, …], worker after
worker, and its backward pass sums the gradients of all workers; ``rank`` is the number of this worker. A loss is scaled
so that its *mean over workers* is the loss of the global batch: what averaging gradients over workers needs.
Samples with ``valid_B = False`` count neither as rows nor as columns.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as nnf
from torch import Tensor

Gather = Callable[[Tensor], Tensor]


def identity(x_B: Tensor) -> Tensor:
    """``gather`` of a single worker."""
    return x_B


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision is lifted; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()


def contrastive(
    text_BD: Tensor,
    video_BD: Tensor,
    *,
    scale: Tensor,
    valid_B: Tensor,
    reduction: Literal["sum", "mean"],
    gather: Gather = identity,
    rank: int = 0,
) -> Tensor:
    """Cross-entropy of matching L2-normalised texts and videos, summed or averaged over both directions.

    Returns a float32 scalar; zero with zero gradients if the global batch has no valid sample.
    """
    with torch.autocast(text_BD.device.type, enabled=False):
        text_BD, video_BD = _without_placeholders(text_BD, valid_B), _without_placeholders(video_BD, valid_B)
        text_GD, video_GD = gather(text_BD), gather(video_BD)
        valid_G = gather(valid_B.float()) > 0.5
        weight_B = _row_weights(valid_B, valid_G)
        to_video = _cross_entropy(_scaled(scale, text_BD) @ video_GD.T, valid_G, weight_B, rank=rank)
        to_text = _cross_entropy(_scaled(scale, video_BD) @ text_GD.T, valid_G, weight_B, rank=rank)
        total = to_video + to_text
        return total if reduction == "sum" else total / 2


def reconstruction(pseudo_query_BD: Tensor, text_BD: Tensor, *, valid_B: Tensor, gather: Gather = identity) -> Tensor:
    """Mean of 2 − 2·cos(pseudo-query, text) over the valid samples of the global batch, a float32 scalar."""
    with torch.autocast(text_BD.device.type, enabled=False):
        pseudo_query_BD = _without_placeholders(pseudo_query_BD, valid_B)
        text_BD = _without_placeholders(text_BD, valid_B)
        weight_B = _row_weights(valid_B, gather(valid_B.float()) > 0.5)
        return (weight_B * (2 - 2 * nnf.cosine_similarity(pseudo_query_BD, text_BD, dim=-1))).sum()


def _without_placeholders(x_BD: Tensor, valid_B: Tensor) -> Tensor:
    """Zeros in place of placeholders: whatever they hold, NaN included, reaches neither result nor gradient."""
    return at_least_float32(x_BD).masked_fill(~valid_B[:, None], 0.0)


def _scaled(scale: Tensor, x_BD: Tensor) -> Tensor:
    return at_least_float32(scale) * x_BD


def _row_weights(valid_B: Tensor, valid_G: Tensor) -> Tensor:
    num_workers = len(valid_G) // len(valid_B)
    return valid_B * (num_workers / valid_G.sum().clamp(min=1))


def _cross_entropy(logit_BG: Tensor, valid_G: Tensor, weight_B: Tensor, *, rank: int) -> Tensor:
    # finite, so that a row without any valid column stays free of NaN
    logit_BG = logit_BG.masked_fill(~valid_G, torch.finfo(logit_BG.dtype).min / 2)
    target_B = torch.arange(len(logit_BG), device=logit_BG.device) + rank * len(logit_BG)
    loss_B = nnf.cross_entropy(logit_BG, target_B, reduction="none")
    return torch.where(weight_B > 0, weight_B * loss_B, 0.0).sum()
