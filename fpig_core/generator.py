"""Pseudo-query generator φ_g: visual tokens read by a second copy of CLIP's text transformer."""

import copy

import torch
from torch import Tensor, nn

from fpig_core.backbone import BEGIN, END, TextTower


class PseudoQueryGenerator(nn.Module):
    """``[BOS] + visual tokens + [EOS]`` through the text transformer; what stands at EOS is the pseudo-query.

    It copies the weights of ``text`` and shares none. ``use_bos``, ``train_bos_eos`` and ``project`` tell apart the
    two public versions of the reference.
    """

    causal_mask: Tensor

    def __init__(
        self,
        text: TextTower,
        *,
        token_width: int,
        num_tokens: int,
        use_bos: bool = True,
        train_bos_eos: bool = True,
        project: bool = True,
    ) -> None:
        super().__init__()
        width = text.ln_final.normalized_shape[0]
        length = num_tokens + 1 + use_bos
        rows = len(text.positional_embedding)
        if length > rows:
            raise ValueError(
                f"got {num_tokens} visual tokens, which with their ends need {length} word positions; CLIP has {rows}; "
                f"use fewer frames or a smaller num_selected"
            )
        if not project and width != token_width:
            raise ValueError(
                f"got project=False with a text width of {width} and a shared width of {token_width}; use project=True"
            )
        self.input = nn.Linear(token_width, width)
        ends_EW = text.token_embedding.weight.detach()[[BEGIN, END] if use_bos else [END]].clone()
        if train_bos_eos:
            self.ends = nn.Parameter(ends_EW)
        else:
            self.register_buffer("ends", ends_EW)
        self.positional_embedding = nn.Parameter(text.positional_embedding.detach().clone())
        self.transformer = copy.deepcopy(text.transformer)
        self.ln_final = copy.deepcopy(text.ln_final)
        assert text.text_projection is not None
        self.projection = nn.Parameter(text.text_projection.detach().clone()) if project else None
        self.register_buffer("causal_mask", torch.full((rows, rows), float("-inf")).triu_(1), persistent=False)

    def sequence(self, token_BSD: Tensor) -> Tensor:
        """What the transformer reads, positions included: [B, S + ends, text width]."""
        x_BSW = self.input(token_BSD)
        ends_BEW = self.ends.to(x_BSW.dtype).expand(len(x_BSW), -1, -1)
        x_BSW = torch.cat([ends_BEW[:, :-1], x_BSW, ends_BEW[:, -1:]], dim=1)
        return x_BSW + self.positional_embedding[: x_BSW.shape[1]].to(x_BSW.dtype)

    def forward(self, token_BSD: Tensor) -> Tensor:
        """Pseudo-queries [B, D], not normalised, of as many tokens as there are word positions, less the ends."""
        x_BSW = self.sequence(token_BSD)
        length = x_BSW.shape[1]
        x_BSW = self.transformer(x_BSW, attn_mask=self.causal_mask[:length, :length])
        query_BW = self.ln_final(x_BSW[:, -1])
        return query_BW if self.projection is None else query_BW @ self.projection
