"""Masked language modelling on CLIP's words: which are real, which are hidden, and what a wrong guess costs."""

from typing import NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor

from fpig_core.backbone import END
from fpig_core.precision import at_least_float32
from fpig_core.rows import Noise, Rows

MASK = 187
"""Stands for a hidden word. CLIP has no mask of its own; this is its piece for the byte 0xFF, which occurs in no UTF-8
text: the tokenizer never writes it and CLIP's training never used it, so its embedding is free to be learned."""


class MaskedWords(NamedTuple):
    """Word numbers with some replaced by ``MASK``, and which these are."""

    word_BL: Tensor
    is_hidden_BL: Tensor


def is_word(word_BL: Tensor) -> Tensor:
    """Which places hold words, both ends included; what stands behind the end is padding."""
    place_L = torch.arange(word_BL.shape[1], device=word_BL.device)
    return place_L <= word_BL.argmax(dim=-1, keepdim=True)


def hide_words(word_BL: Tensor, *, share: float, noise: Noise) -> MaskedWords:
    """Hide each word with probability ``share``; the ends of a text stay."""
    uniform_BL = noise.uniform("masked_words", *word_BL.shape, device=word_BL.device)
    is_hidden_BL = (uniform_BL < share) & is_word(word_BL) & (word_BL != END)
    is_hidden_BL[:, 0] = False
    return MaskedWords(word_BL.masked_fill(is_hidden_BL, MASK), is_hidden_BL)


def guessing_loss(logit_hU: Tensor, word_bL: Tensor, is_hidden_bL: Tensor) -> Tensor:
    """Cross-entropy summed over the hidden words of each of b texts: [b].

    ``logit_hU`` has a row for each of the h hidden words, text by text, over a vocabulary of U.
    """
    loss_h = nnf.cross_entropy(at_least_float32(logit_hU), word_bL[is_hidden_bL], reduction="none")
    return loss_h.new_zeros(word_bL.shape).masked_scatter(is_hidden_bL, loss_h).sum(dim=-1)


def mean_over_hidden_words(loss_B: Tensor, is_hidden_BL: Tensor, rows: Rows) -> Tensor:
    """Mean over all hidden words of the global batch, from sums over those of each row. Zero if there is none."""
    count_B = (is_hidden_BL & rows.valid_B[:, None]).sum(dim=-1)
    num_hidden = rows.gather(count_B.to(loss_B.dtype)).sum()
    return rows.mean(loss_B) * (rows.valid_G.sum() / num_hidden.clamp(min=1))
