"""How a text reads the tokens of a video, without parameters (EERCF, Tian et al. 2024, arXiv:2401.00701).

Similarities are inner products of unit vectors, for each of B videos between Q texts and N tokens.
"""

import torch
from torch import Tensor

from fpig_core.normalise import unit


def soft_max_score(similarity_BQN: Tensor, *, temperature: float, mix_NN: Tensor | None = None) -> Tensor:
    """Σ_N similarity · [softmax_N(similarity / temperature) · mix] -> [B, Q]; near the maximum if cold.

    Zero where there are no tokens.
    """
    weight_BQN = (similarity_BQN / temperature).softmax(dim=-1)
    if mix_NN is not None:
        weight_BQN = weight_BQN @ mix_NN
    return (similarity_BQN * weight_BQN).sum(dim=-1)


def text_gated_pool(similarity_BQN: Tensor, token_BND: Tensor, *, temperature: float) -> Tensor:
    """Text-gated interaction block: norm(Σ_N softmax_N(similarity / temperature) · token) -> [B, Q, D].

    The gate takes no gradients: texts choose tokens, and learn nothing from the choice. Zero where there are no tokens.
    """
    weight_BQN = (similarity_BQN.detach() / temperature).softmax(dim=-1)
    return unit(torch.bmm(weight_BQN, token_BND))
