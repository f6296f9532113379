"""Hard negatives for a matching loss: another sample of the global batch, drawn in proportion to its similarity."""

from typing import NamedTuple

import torch
from torch import Tensor

from fpig_core.rows import Rows


class Negatives(NamedTuple):
    """Place of each row's negative in the global batch; without any other valid sample it means nothing."""

    index_B: Tensor
    exists_B: Tensor


@torch.no_grad()
def draw_negatives(score_BG: Tensor, *, rows: Rows, name: str) -> Negatives:
    """One column for each row, with the probability that a softmax over its scores gives; the hardest without noise.

    Placeholders and the row's own column are never drawn. A row takes one number of the noise called ``name`` and
    reads it off the cumulative distribution: its draw depends on its place in the global batch and on its scores alone.
    """
    own_B = torch.arange(rows.own.start, rows.own.stop, device=score_BG.device)
    allowed_BG = rows.valid_G.expand(score_BG.shape).scatter(1, own_B[:, None], value=False)
    # float64: the last digits of a cumulative sum must not choose
    share_BG = score_BG.double().masked_fill(~allowed_BG, float("-inf")).softmax(dim=-1).masked_fill(~allowed_BG, 0.0)
    if rows.noise is None:
        index_B = share_BG.argmax(dim=-1)
    else:
        uniform_B1 = rows.noise.uniform(name, len(score_BG), 1, device=score_BG.device).double()
        total_BG = share_BG.cumsum(dim=-1)
        # the first column whose cumulative share exceeds the number, so never one whose own share is zero
        index_B = torch.searchsorted(total_BG, uniform_B1 * total_BG[:, -1:], right=True)[:, 0]
        index_B = index_B.clamp(max=score_BG.shape[1] - 1)
    return Negatives(index_B, allowed_BG.any(dim=-1))
