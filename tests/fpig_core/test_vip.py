from typing import Any

import pytest
import torch
from torch import Tensor

from fpig_core.backbone import Backbone
from fpig_core.fpig import FPig, FPigConfig
from fpig_core.vip import VipEncoder, interpolate_times


def token_places(num_globals: int, num_frames: int, frame_width: int) -> list[tuple[int, int]]:
    """For each token its frame (−1: global) and its place in that frame."""
    places = [(-1, number) for number in range(num_globals)]
    return places + [(frame, place) for frame in range(num_frames) for place in range(frame_width)]


def slow_embedding(encoder: Any, frame_F3HW: Tensor) -> Tensor:
    """One video's tokens, listed one by one."""
    patch_FVhw = encoder.conv1(frame_F3HW)
    position, time = encoder.positional_embedding, encoder.temporal_embedding
    tokens = [encoder.class_embedding + position[0]]
    tokens += [added + position[0] for added in encoder.added_cls]
    for number, patch_Vhw in enumerate(patch_FVhw):
        tokens.append(encoder.frame_cls + position[0] + time[number])
        grid = [patch_Vhw[:, row, column] for row in range(patch_Vhw.shape[1]) for column in range(patch_Vhw.shape[2])]
        tokens += [patch + position[1 + place] + time[number] for place, patch in enumerate(grid)]
    return torch.stack(tokens)


def slow_attention(attention, x_NV: Tensor, allowed_NN: Tensor) -> tuple[Tensor, Tensor]:
    """Attention under an explicit N × N mask, head by head."""
    q_NV, k_NV, v_NV = attention.qkv(x_NV).chunk(3, dim=-1)
    width = x_NV.shape[1] // attention.num_heads
    mixed, weights = [], []
    for head in range(attention.num_heads):
        part = slice(head * width, (head + 1) * width)
        logit_NN = (q_NV[:, part] @ k_NV[:, part].T) / width**0.5
        weights.append(logit_NN.masked_fill(~allowed_NN, float("-inf")).softmax(dim=-1))
        mixed.append(weights[-1] @ v_NV[:, part])
    return attention.out_proj(torch.cat(mixed, dim=1)), torch.stack(weights)


def slow_encode(encoder: Any, frame_F3HW: Tensor) -> tuple[Tensor, Tensor]:
    places = token_places(encoder.num_globals, len(frame_F3HW), encoder.frame_width)
    allowed_NN = torch.tensor([[q[0] == -1 or k[0] == -1 or q[0] == k[0] for k in places] for q in places])
    x_NV = encoder.ln_pre(slow_embedding(encoder, frame_F3HW))
    weights_HNN = torch.empty(0)
    for block in encoder.blocks:
        mixed_NV, weights_HNN = slow_attention(block.attn, block.ln_1(x_NV), allowed_NN)
        x_NV = x_NV + block.ls_1(mixed_NV)
        x_NV = x_NV + block.ls_2(block.mlp(block.ln_2(x_NV)))
    return encoder.ln_post(x_NV) @ encoder.proj, weights_HNN[:, 0]


@torch.no_grad()
def test_equals_a_loop_under_an_explicit_mask(tiny_clip):
    encoder = VipEncoder(tiny_clip.visual, num_frames=3).double()
    encoder.temporal_embedding.normal_(generator=torch.Generator().manual_seed(2))
    frames = torch.randn(2, 3, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    tokens = encoder(frames)
    for video in range(2):
        token_ND, attention_HN = slow_encode(encoder, frames[video])
        torch.testing.assert_close(tokens.token_BND[video], token_ND, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(tokens.attention_BHN[video].double(), attention_HN, rtol=1e-6, atol=1e-7)


@torch.no_grad()
def test_what_cls_attends_to_is_exact_in_half_precision_too(tiny_clip):
    attention: Any = VipEncoder(tiny_clip.visual, num_frames=3).blocks[-1].attn
    x_BNV = 3 * torch.randn(2, 55, 96, generator=torch.Generator().manual_seed(3))
    with torch.autocast("cpu", torch.bfloat16):
        qkv_BNC = attention.qkv(x_BNV)
        _, weights_BHN = attention(x_BNV, num_globals=4, num_frames=3, with_weights=True)
    q_BNHE, k_BNHE, _ = (part.double().unflatten(-1, (4, 24)) for part in qkv_BNC.chunk(3, dim=-1))
    wanted = (torch.einsum("bhe,bnhe->bhn", q_BNHE[:, 0], k_BNHE) / 24**0.5).softmax(dim=-1)
    torch.testing.assert_close(weights_BHN.double(), wanted, rtol=1e-5, atol=0)


@torch.no_grad()
def test_one_frame_and_one_global_token_equal_clip(tiny_clip):
    encoder = VipEncoder(tiny_clip.visual, num_frames=1, num_added_cls=0, frame_cls=False)
    frames = torch.randn(4, 1, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    cls = encoder(frames).token_BND[:, 0]
    torch.testing.assert_close(cls, tiny_clip.visual(frames[:, 0]), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_before_training_the_order_of_frames_does_not_matter(tiny_clip):
    encoder = VipEncoder(tiny_clip.visual, num_frames=3)
    frames = torch.randn(1, 3, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    M, order = encoder.num_globals, [2, 0, 1]
    straight, shuffled = encoder(frames).token_BND, encoder(frames[:, order]).token_BND
    torch.testing.assert_close(shuffled[:, :M], straight[:, :M], rtol=1e-4, atol=1e-5)
    by_frame = straight[:, M:].unflatten(1, (3, -1))
    torch.testing.assert_close(shuffled[:, M:], by_frame[:, order].flatten(1, 2), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("num_frames", [1, 2, 7])
def test_times_are_interpolated_for_other_lengths(tiny_clip, num_frames):
    encoder = VipEncoder(tiny_clip.visual, num_frames=3)
    encoder.temporal_embedding.copy_(torch.arange(3.0)[:, None].expand(-1, 96))
    frames = torch.randn(1, num_frames, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    assert encoder(frames).token_BND.shape == (1, 4 + num_frames * 17, 96)
    times = interpolate_times(encoder.temporal_embedding, num_frames)[:, 0]
    assert torch.all(times.diff() >= 0)
    assert times.mean().item() == pytest.approx(1.0)


def slow_times(time_FV: Tensor, num_frames: int) -> Tensor:
    """Frame i of n stands at (i + ½) / n of the video; between two of the table it is their weighted mean."""
    rows = []
    for number in range(num_frames):
        place = (number + 0.5) / num_frames * len(time_FV) - 0.5
        place = min(max(place, 0.0), len(time_FV) - 1.0)
        low = min(int(place), len(time_FV) - 1)
        high = min(low + 1, len(time_FV) - 1)
        rows.append((1 - (place - low)) * time_FV[low] + (place - low) * time_FV[high])
    return torch.stack(rows)


@pytest.mark.parametrize("table", [1, 2, 3, 6, 12])
@pytest.mark.parametrize("num_frames", [1, 2, 3, 7, 12, 32])
def test_times_lie_on_the_lines_between_the_frames_of_the_table(table, num_frames):
    time_FV = torch.randn(table, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(table))
    got = interpolate_times(time_FV, num_frames)
    torch.testing.assert_close(got, slow_times(time_FV, num_frames), rtol=1e-12, atol=1e-12)
    assert torch.equal(interpolate_times(time_FV, table), time_FV)
    torch.testing.assert_close(interpolate_times(time_FV.flip(0), num_frames), got.flip(0), rtol=1e-12, atol=1e-12)
    assert (got.amax(dim=0) <= time_FV.amax(dim=0) + 1e-12).all()
    assert (got.amin(dim=0) >= time_FV.amin(dim=0) - 1e-12).all()


@pytest.mark.parametrize("num_frames", [1, 4])
def test_the_table_learns_from_videos_of_another_length(tiny_clip, num_frames):
    encoder = VipEncoder(tiny_clip.visual, num_frames=3)
    frames = torch.randn(1, num_frames, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    encoder(frames).token_BND.square().sum().backward()
    assert encoder.temporal_embedding.grad is not None
    used = encoder.temporal_embedding.grad.abs().sum(dim=1) > 0
    assert used.tolist() == ([False, True, False] if num_frames == 1 else [True] * 3)


def test_added_tokens_can_start_from_the_class_embedding(tiny_clip):
    encoder = VipEncoder(tiny_clip.visual, num_frames=3, added_cls_init="cls")
    assert encoder.added_cls is not None
    assert (encoder.added_cls - encoder.class_embedding).std().item() == pytest.approx(0.02, rel=0.2)
    torch.testing.assert_close(encoder.frame_cls, encoder.class_embedding)


@pytest.mark.parametrize(("name", "num_tokens"), [("ViT-B-32", 604), ("ViT-B-16", 2368)])
def test_number_of_tokens_at_full_size(name, num_tokens):
    with torch.device("meta"):
        model = FPig(FPigConfig(backbone=Backbone(name=name)))
        tokens = model.video(torch.empty(2, 12, 3, 224, 224))
    assert model.video.num_tokens(12) == num_tokens
    assert tokens.token_BND.shape == (2, num_tokens, 512)
    assert tokens.attention_BHN.shape == (2, 12, num_tokens)
