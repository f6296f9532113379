"""Pseudo-interaction φ_f: the pseudo-query pools the video's own tokens (the attention of X-Pool, one head)."""

import torch
from torch import Tensor, nn


class PseudoInteraction(nn.Module):
    """``fused = LN3(o + Dropout(W_lin·o))`` with ``o = LN2(W_o · Σ a v)``; every linear map starts as identity.

    The pseudo-query of a video meets only that video, so the work grows with B, not with B².
    """

    def __init__(self, width: int, *, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = temperature
        self.query, self.key, self.value = _identity(width), _identity(width), _identity(width)
        self.out, self.linear = _identity(width), _identity(width)
        self.ln_1, self.ln_2, self.ln_3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)

    def attention(self, query_BD: Tensor, token_BND: Tensor) -> Tensor:
        """How much each token counts: [B, N], each row sums to one."""
        q_BD, k_BND = self.query(self.ln_1(query_BD)), self.key(self.ln_1(token_BND))
        score_BN = torch.einsum("bd,bnd->bn", q_BD, k_BND)
        return (score_BN * q_BD.shape[-1] ** -0.5 / self.temperature).softmax(dim=-1)

    def forward(self, query_BD: Tensor, token_BND: Tensor, *, keep_BD: Tensor | None = None) -> Tensor:
        """Fused vectors [B, D], not normalised; ``keep_BD`` are the factors of the dropout, none without it."""
        weight_BN = self.attention(query_BD, token_BND)
        pooled_BD = torch.einsum("bn,bnd->bd", weight_BN, self.value(self.ln_1(token_BND)))
        out_BD = self.ln_2(self.out(pooled_BD))
        mapped_BD = self.linear(out_BD)
        return self.ln_3(out_BD + (mapped_BD if keep_BD is None else mapped_BD * keep_BD))


def _identity(width: int) -> nn.Linear:
    linear = nn.Linear(width, width)
    nn.init.eye_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
