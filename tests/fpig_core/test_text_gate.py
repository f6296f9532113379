import math

import pytest
import torch

from fpig_core.normalise import unit
from fpig_core.text_gate import soft_max_score, text_gated_pool


def inputs(*, num_videos=2, num_texts=3, num_tokens=4, width=5):
    generator = torch.Generator().manual_seed(0)
    similarity_BQN = 0.3 * torch.randn(num_videos, num_texts, num_tokens, dtype=torch.float64, generator=generator)
    token_BND = unit(torch.randn(num_videos, num_tokens, width, dtype=torch.float64, generator=generator))
    return similarity_BQN, token_BND, torch.randn(num_tokens, num_tokens, dtype=torch.float64, generator=generator)


def slow_softmax(values, temperature):
    exponentials = [math.exp(value / temperature) for value in values]
    return [value / sum(exponentials) for value in exponentials]


@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_soft_max_score_equals_its_sum(temperature):
    similarity_BQN, _, mix_NN = inputs()
    plain = soft_max_score(similarity_BQN, temperature=temperature)
    mixed = soft_max_score(similarity_BQN, temperature=temperature, mix_NN=mix_NN)
    for video, text in torch.cartesian_prod(torch.arange(2), torch.arange(3)).tolist():
        values = similarity_BQN[video, text].tolist()
        weight = slow_softmax(values, temperature)
        wanted = sum(value * weight[n] for n, value in enumerate(values))
        assert plain[video, text].item() == pytest.approx(wanted, rel=1e-9)
        wanted = sum(value * weight[m] * mix_NN[m, n].item() for n, value in enumerate(values) for m in range(4))
        assert mixed[video, text].item() == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_pooling_equals_its_sum(temperature):
    similarity_BQN, token_BND, _ = inputs()
    pooled = text_gated_pool(similarity_BQN, token_BND, temperature=temperature)
    for video, text in torch.cartesian_prod(torch.arange(2), torch.arange(3)).tolist():
        weight = slow_softmax(similarity_BQN[video, text].tolist(), temperature)
        total = [sum(weight[n] * token_BND[video, n, d].item() for n in range(4)) for d in range(5)]
        length = math.sqrt(sum(value**2 for value in total))
        assert pooled[video, text].tolist() == pytest.approx([value / length for value in total], rel=1e-9)


def test_a_cold_gate_takes_the_best_token_and_a_hot_one_the_mean():
    similarity_BQN, token_BND, _ = inputs()
    best_BQD = torch.stack([token_BND[video, similarity_BQN[video].argmax(dim=-1)] for video in range(2)])
    torch.testing.assert_close(text_gated_pool(similarity_BQN, token_BND, temperature=1e-4), best_BQD)
    mean_BD = unit(token_BND.mean(dim=1))
    hot_BQD = text_gated_pool(similarity_BQN, token_BND, temperature=1e6)
    torch.testing.assert_close(hot_BQD, mean_BD[:, None].expand(-1, 3, -1), rtol=1e-5, atol=1e-6)


def test_gradients_are_those_of_finite_differences_and_pass_by_the_gate():
    similarity_BQN, token_BND, mix_NN = (x.requires_grad_() for x in inputs())
    held_BQN = similarity_BQN.detach()
    assert torch.autograd.gradcheck(lambda token: text_gated_pool(held_BQN, token, temperature=0.3), token_BND)
    score = text_gated_pool(similarity_BQN, token_BND, temperature=0.3).sum()
    assert torch.autograd.grad(score, similarity_BQN, allow_unused=True) == (None,)
    assert torch.autograd.gradcheck(
        lambda similarity, mix: soft_max_score(similarity, temperature=0.3, mix_NN=mix), (similarity_BQN, mix_NN)
    )


def test_without_tokens_there_is_nothing():
    similarity_BQN, token_BND, _ = inputs()
    assert torch.equal(soft_max_score(similarity_BQN[..., :0], temperature=1.0), torch.zeros(2, 3).double())
    pooled = text_gated_pool(similarity_BQN[..., :0], token_BND[:, :0], temperature=1.0)
    assert torch.equal(pooled, torch.zeros(2, 3, 5).double())
