"""Informativeness Token Selector: the patches that CLS looks at most. It has no parameters."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor


class Selection(NamedTuple):
    """Kept tokens, best first; their places among the N tokens; scores of all tokens (−inf where not a patch)."""

    token_BKD: Tensor
    index_BK: Tensor
    score_BN: Tensor


def select_tokens(
    token_BND: Tensor,
    attention_BHN: Tensor,
    *,
    is_patch_N: Tensor,
    num_selected: int,
    reduce: Literal["max", "mean"] = "max",
) -> Selection:
    """Keep the ``num_selected`` best patches of the whole video.

    Gradients flow through the kept tokens, not through the choice.
    """
    attention_BHN = attention_BHN.detach()
    score_BN = attention_BHN.amax(dim=1) if reduce == "max" else attention_BHN.mean(dim=1)
    score_BN = score_BN.masked_fill(~is_patch_N, float("-inf"))
    index_BK = score_BN.topk(num_selected, dim=1).indices
    token_BKD = torch.gather(token_BND, 1, index_BK[..., None].expand(-1, -1, token_BND.shape[-1]))
    return Selection(token_BKD, index_BK, score_BN)
