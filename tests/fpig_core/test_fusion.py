import math

import pytest
import torch
from torch import Tensor, nn

from fpig_core.fusion import Fusion, TextToVideoAttention

KINDS = ["bypass", "naive", "unidirectional"]
N, F, S, L, WIDTH, HEADS = 2, 3, 4, 5, 12, 3


def make_fusion(kind) -> Fusion:
    torch.manual_seed(0)
    fusion = Fusion(text_width=6, video_width=7, width=WIDTH, num_layers=2, num_heads=HEADS, kind=kind)
    for name, parameter in fusion.named_parameters():
        if "norm" in name:
            nn.init.normal_(parameter, 1.0, 0.3)
    return fusion.double()


def make_inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Words, tokens, and which words are real: 3 of the first text, all of the second."""
    generator = torch.Generator().manual_seed(1)
    word = torch.randn(N, L, 6, generator=generator, dtype=torch.float64)
    token = torch.randn(N, F, S, 7, generator=generator, dtype=torch.float64)
    return word, token, torch.tensor([[True] * 3 + [False] * 2, [True] * 5])


def slow_attention(attention, asking, asked):
    """Every head, asker and asked one by one; both are lists of vectors."""
    width = len(attention.query.weight)
    part = width // HEADS
    weights = attention.key_value.weight.split(width), attention.key_value.bias.split(width)
    key = [weights[0][0] @ x + weights[1][0] for x in asked]
    value = [weights[0][1] @ x + weights[1][1] for x in asked]
    results = []
    for x in asking:
        query = attention.query.weight @ x + attention.query.bias
        mixed = []
        for head in range(HEADS):
            here = slice(head * part, (head + 1) * part)
            weight = [torch.exp(query[here] @ k[here] / math.sqrt(part)) for k in key]
            mixed.append(sum(w * v[here] for w, v in zip(weight, value, strict=True)) / sum(weight))
        results.append(attention.out.weight @ torch.cat(mixed) + attention.out.bias)
    return results


def residual(norm, old, new):
    return [norm(x + y) for x, y in zip(old, new, strict=True)]


def slow_fusion(fusion, word, token, kind):
    """One pair without padding, by the equations: ``word`` [L, W], ``token`` [F, S, V] → list of fused words."""
    text = [fusion.word_input(x) for x in word]
    frames = [[fusion.token_input(x) for x in frame] for frame in token]
    for block in fusion.blocks:
        if kind == "unidirectional":
            text = residual(block.self_norm, text, slow_attention(block.self_attention, text, text))
        else:
            step = block.text_to_video
            frames = [
                residual(
                    step.norm, frame, slow_attention(step.attention, frame, text + (frame if kind == "bypass" else []))
                )
                for frame in frames
            ]
        everything = [x for frame in frames for x in frame]
        text = residual(block.cross_norm, text, slow_attention(block.cross_attention, text, everything))
        if kind != "unidirectional":
            text = residual(block.self_norm, text, slow_attention(block.self_attention, text, text))
        text = residual(block.feed_forward_norm, text, [block.feed_forward(x) for x in text])
    return text


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_equations_word_by_word(kind):
    """The oracle has never seen the padding."""
    fusion, (word, token, is_word) = make_fusion(kind), make_inputs()
    fused = fusion(word, token, is_word)
    for pair in range(N):
        slow = torch.stack(slow_fusion(fusion, word[pair, is_word[pair]], token[pair], kind))
        torch.testing.assert_close(fused[pair, is_word[pair]], slow, rtol=1e-9, atol=1e-11)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_in_the_padding_changes_nothing(kind):
    fusion, (word, token, is_word) = make_fusion(kind), make_inputs()
    before = fusion(word, token, is_word)[is_word]
    other = torch.where(is_word[..., None], word, 9 * torch.randn_like(word))
    assert torch.equal(fusion(other, token, is_word)[is_word], before)


@torch.no_grad()
def test_with_every_word_masked_the_bypass_is_self_attention_of_each_frame():
    torch.manual_seed(0)
    step = TextToVideoAttention(WIDTH, num_heads=HEADS, bypass=True).double()
    plain = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).double()
    attention = step.attention
    plain.load_state_dict(
        {
            "in_proj_weight": torch.cat([attention.query.weight, attention.key_value.weight]),
            "in_proj_bias": torch.cat([attention.query.bias, attention.key_value.bias]),
            "out_proj.weight": attention.out.weight,
            "out_proj.bias": attention.out.bias,
        }
    )
    token, word = torch.randn(N, F, S, WIDTH).double(), torch.randn(N, L, WIDTH).double()
    mixed = step(token, word, torch.zeros(N, L, dtype=torch.bool))
    for pair in range(N):
        for frame in range(F):
            x = token[pair, frame][None]
            wanted = step.norm(x + plain(x, x, x)[0])[0]
            torch.testing.assert_close(mixed[pair, frame], wanted, rtol=1e-9, atol=1e-11)


@torch.no_grad()
@pytest.mark.parametrize("bypass", [True, False])
def test_a_frame_sees_no_other_frame(bypass):
    torch.manual_seed(0)
    step = TextToVideoAttention(WIDTH, num_heads=HEADS, bypass=bypass).double()
    token, word = torch.randn(N, F, S, WIDTH).double(), torch.randn(N, L, WIDTH).double()
    is_word = torch.ones(N, L, dtype=torch.bool)
    before = step(token, word, is_word)
    token[:, 1] = torch.randn(N, S, WIDTH).double()
    after = step(token, word, is_word)
    assert torch.equal(after[:, [0, 2]], before[:, [0, 2]])
    assert not torch.isclose(after[:, 1], before[:, 1]).any()


@torch.no_grad()
@pytest.mark.parametrize("bypass", [True, False])
def test_a_patch_sees_its_neighbour_only_through_the_bypass(bypass):
    torch.manual_seed(0)
    step = TextToVideoAttention(WIDTH, num_heads=HEADS, bypass=bypass).double()
    token, word = torch.randn(N, F, S, WIDTH).double(), torch.randn(N, L, WIDTH).double()
    is_word = torch.ones(N, L, dtype=torch.bool)
    before = step(token, word, is_word)[:, :, 0]
    token[:, :, 1] += 1
    assert torch.equal(step(token, word, is_word)[:, :, 0], before) is not bypass


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_without_a_word_is_finite_and_leaves_the_others_alone(kind):
    fusion, (word, token, is_word) = make_fusion(kind), make_inputs()
    alone = fusion(word[1:], token[1:], is_word[1:])
    word.requires_grad_()
    token.requires_grad_()
    fused = fusion(word, token, torch.stack([torch.zeros(L, dtype=torch.bool), is_word[1]]))
    torch.testing.assert_close(fused[1:], alone)
    assert fused.isfinite().all()
    gradients = torch.autograd.grad(fused.square().sum(), [word, token, *fusion.parameters()])
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_gradients_of_the_bypass_are_those_of_small_differences():
    torch.manual_seed(0)
    step = TextToVideoAttention(4, num_heads=2, bypass=True).double()
    token, word = torch.randn(2, 2, 2, 4).double().requires_grad_(), torch.randn(2, 3, 4).double().requires_grad_()
    is_word = torch.tensor([[True, True, False], [False, False, False]])
    assert torch.autograd.gradcheck(lambda token, word: step(token, word, is_word), (token, word))


@pytest.mark.parametrize("kind", KINDS)
def test_computing_blocks_again_changes_no_gradient(kind):
    fusion, inputs = make_fusion(kind), make_inputs()
    parameters = list(fusion.parameters())
    wanted = torch.autograd.grad(fusion(*inputs)[:, 0].square().sum(), parameters)
    fusion.grad_checkpointing = True
    got = torch.autograd.grad(fusion(*inputs)[:, 0].square().sum(), parameters)
    assert all(torch.equal(x, y) for x, y in zip(got, wanted, strict=True))


@torch.no_grad()
def test_tokens_may_come_in_half_precision():
    fusion, (word, token, is_word) = make_fusion("bypass"), make_inputs()
    token = token.half()
    torch.testing.assert_close(fusion(word, token, is_word), fusion(word, token.double(), is_word))


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match=r"num_heads=12, which does not divide .* 512; use fusion_width=516"):
        Fusion(text_width=8, video_width=8, width=512, num_layers=1, num_heads=12, kind="bypass")
