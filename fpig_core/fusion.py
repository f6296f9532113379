"""Words and visual tokens fused by cross-attention: T2V2T in both directions, and the one-way form of VindLU.

    F_T2V[i] = X-Attn(query = F_V[i], key/value = [F_T ∥ F_V[i]])     per frame i; the bypass is the second part
    F_T2V2T  = S-Attn(X-Attn(query = F_T, key/value = F_T2V))

The bypass lets a patch attend to its own frame where the text says nothing about it. ``naive`` leaves it out.
``unidirectional`` has no T2V: the text attends to itself, then to the visual tokens as they came. Each attention is
followed by a residual and a norm, as in BERT; each block ends with a feed-forward of the text.

C is the width of the fusion, X counts who asks and Y who is asked.
"""

from typing import Literal

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

FusionKind = Literal["bypass", "naive", "unidirectional"]

FEED_FORWARD = 4


class Attention(nn.Module):
    """Multi-head attention of one sequence to what ``keys`` made of another, with H heads of width E."""

    def __init__(self, width: int, *, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)

    def keys(self, context_nYC: Tensor) -> Tensor:
        """Keys and values [n, Y, 2, H, E]; more dimensions in front stay as they are."""
        return self.key_value(context_nYC).unflatten(-1, (2, self.num_heads, -1))

    def forward(self, x_nXC: Tensor, key_nY2HE: Tensor, is_key_nY: Tensor | None = None) -> Tensor:
        """What is mixed in for ``x``: [n, X, C]. A row that has no key at all mixes zeros."""
        q_nHXE = self.query(x_nXC).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        k_nHYE, v_nHYE = key_nY2HE.permute(2, 0, 3, 1, 4).unbind()
        if is_key_nY is None:
            mixed_nHXE = nnf.scaled_dot_product_attention(q_nHXE, k_nHYE, v_nHYE)
        else:
            # A softmax over nothing is NaN in some kernels: such a row sees all keys, and its result is dropped.
            any_n1 = is_key_nY.any(dim=-1, keepdim=True)
            mask_n11Y = (is_key_nY | ~any_n1)[:, None, None]
            mixed_nHXE = nnf.scaled_dot_product_attention(q_nHXE, k_nHYE, v_nHYE, attn_mask=mask_n11Y)
            mixed_nHXE = mixed_nHXE * any_n1[..., None, None]
        return self.out(mixed_nHXE.transpose(1, 2).flatten(2))


class TextToVideoAttention(nn.Module):
    """Visual tokens that attended to the words and, with ``bypass``, to the tokens of their own frame."""

    def __init__(self, width: int, *, num_heads: int, bypass: bool) -> None:
        super().__init__()
        self.bypass = bypass
        self.attention, self.norm = Attention(width, num_heads=num_heads), nn.LayerNorm(width)

    def forward(self, token_nFSC: Tensor, word_nLC: Tensor, is_word_nL: Tensor) -> Tensor:
        word_nL2HE = self.attention.keys(word_nLC)
        if self.bypass:
            n, F, S, _ = token_nFSC.shape
            own_nFS2HE = self.attention.keys(token_nFSC)
            word_nFL2HE = word_nL2HE[:, None].expand(n, F, *word_nL2HE.shape[1:])
            key_fY2HE = torch.cat([word_nFL2HE, own_nFS2HE], dim=2).flatten(0, 1)
            is_key_nY = nnf.pad(is_word_nL, (0, S), value=True)
            mixed_nFSC = self.attention(token_nFSC.flatten(0, 1), key_fY2HE, is_key_nY.repeat_interleave(F, dim=0))
        else:
            # The words are the same for all frames, so the frames can ask as one sequence.
            mixed_nFSC = self.attention(token_nFSC.flatten(1, 2), word_nL2HE, is_word_nL)
        return self.norm(token_nFSC + mixed_nFSC.view_as(token_nFSC))


class FusionBlock(nn.Module):
    """One round: T2V (unless ``unidirectional``), the text's two attentions, its feed-forward."""

    def __init__(self, width: int, *, num_heads: int, kind: FusionKind) -> None:
        super().__init__()
        self.text_to_video: TextToVideoAttention | None = None
        if kind != "unidirectional":
            self.text_to_video = TextToVideoAttention(width, num_heads=num_heads, bypass=kind == "bypass")
        self.cross_attention, self.cross_norm = Attention(width, num_heads=num_heads), nn.LayerNorm(width)
        self.self_attention, self.self_norm = Attention(width, num_heads=num_heads), nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, FEED_FORWARD * width), nn.GELU(), nn.Linear(FEED_FORWARD * width, width)
        )
        self.feed_forward_norm = nn.LayerNorm(width)

    def forward(self, word_nLC: Tensor, token_nFSC: Tensor, is_word_nL: Tensor) -> tuple[Tensor, Tensor]:
        """Words and tokens of the next round, same shapes; ``unidirectional`` leaves the tokens alone."""
        if self.text_to_video is None:
            word_nLC = self._see_video(self._see_words(word_nLC, is_word_nL), token_nFSC)
        else:
            token_nFSC = self.text_to_video(token_nFSC, word_nLC, is_word_nL)
            word_nLC = self._see_words(self._see_video(word_nLC, token_nFSC), is_word_nL)
        return self.feed_forward_norm(word_nLC + self.feed_forward(word_nLC)), token_nFSC

    def _see_words(self, word_nLC: Tensor, is_word_nL: Tensor) -> Tensor:
        key_nL2HE = self.self_attention.keys(word_nLC)
        return self.self_norm(word_nLC + self.self_attention(word_nLC, key_nL2HE, is_word_nL))

    def _see_video(self, word_nLC: Tensor, token_nFSC: Tensor) -> Tensor:
        key_nY2HE = self.cross_attention.keys(token_nFSC.flatten(1, 2))
        return self.cross_norm(word_nLC + self.cross_attention(word_nLC, key_nY2HE))


class Fusion(nn.Module):
    """Words of both towers' own widths in, fused words out, for n pairs of a text and a video.

    Raises:
        ValueError: ``num_heads`` does not divide ``width``.
    """

    def __init__(
        self, *, text_width: int, video_width: int, width: int, num_layers: int, num_heads: int, kind: FusionKind
    ) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(
                f"got num_heads={num_heads}, which does not divide the fusion's width of {width}; "
                f"use fusion_width={(width // num_heads + 1) * num_heads} or other num_heads"
            )
        self.word_input, self.token_input = nn.Linear(text_width, width), nn.Linear(video_width, width)
        self.blocks = nn.ModuleList(FusionBlock(width, num_heads=num_heads, kind=kind) for _ in range(num_layers))
        self.grad_checkpointing = False

    def forward(self, word_nLW: Tensor, token_nFSV: Tensor, is_word_nL: Tensor) -> Tensor:
        """Fused words [n, L, C]; ``is_word_nL`` tells words from padding, which nobody attends to.

        Inputs of any float type are taken: a corpus keeps its tokens in half precision.
        """
        word_nLC = self.word_input(word_nLW.to(self.word_input.weight.dtype))
        token_nFSC = self.token_input(token_nFSV.to(self.token_input.weight.dtype))
        for block in self.blocks:
            inputs = word_nLC, token_nFSC, is_word_nL
            if self.grad_checkpointing:
                word_nLC, token_nFSC = checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)
            else:
                word_nLC, token_nFSC = block(*inputs)
        return word_nLC
