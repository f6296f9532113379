import torch
import torch.nn.functional as nnf

from fpig_core.interaction import PseudoInteraction


def layer_norm(x):
    return nnf.layer_norm(x, x.shape[-1:])


def inputs(*, num_videos=5, num_tokens=16, width=12):
    generator = torch.Generator().manual_seed(0)
    query_BD = torch.randn(num_videos, width, dtype=torch.float64, generator=generator)
    token_BND = torch.randn(num_videos, num_tokens, width, dtype=torch.float64, generator=generator)
    return query_BD, token_BND


def shaken(**settings):
    torch.manual_seed(1)
    interaction = PseudoInteraction(12, **settings).double().eval()
    with torch.no_grad():
        for parameter in interaction.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return interaction


def slow_pair(interaction, query_D, token_ND):
    """One query and one video, as the equations stand."""
    q_D = interaction.query(interaction.ln_1(query_D))
    logits, values = [], []
    for token_D in token_ND:
        k_D = interaction.key(interaction.ln_1(token_D))
        logits.append((q_D * k_D).sum() / len(q_D) ** 0.5 / interaction.temperature)
        values.append(interaction.value(interaction.ln_1(token_D)))
    total = sum(logit.exp() for logit in logits)
    pooled_D = sum(logit.exp() / total * value for logit, value in zip(logits, values, strict=True))
    out_D = interaction.ln_2(interaction.out(pooled_D))
    return interaction.ln_3(out_D + interaction.linear(out_D))


def test_at_the_start_it_only_pools_and_normalises():
    query_BD, token_BND = inputs()
    interaction = PseudoInteraction(12).double().eval()
    weight_BN = torch.einsum("bd,bnd->bn", layer_norm(query_BD), layer_norm(token_BND)).div(12**0.5).softmax(dim=-1)
    pooled_BD = torch.einsum("bn,bnd->bd", weight_BN, layer_norm(token_BND))
    torch.testing.assert_close(interaction(query_BD, token_BND), layer_norm(2 * layer_norm(pooled_BD)))


def test_equals_the_diagonal_of_all_pairs():
    query_BD, token_BND = inputs()
    interaction = shaken(temperature=3.0)
    pairs = [[slow_pair(interaction, query_D, token_ND) for token_ND in token_BND] for query_D in query_BD]
    diagonal_BD = torch.stack([pairs[number][number] for number in range(len(pairs))])
    torch.testing.assert_close(interaction(query_BD, token_BND), diagonal_BD)


def test_gradients_are_those_of_finite_differences():
    query_BD, token_BND = inputs(num_videos=2, num_tokens=3)
    assert torch.autograd.gradcheck(shaken(), (query_BD.requires_grad_(), token_BND.requires_grad_()))


def test_a_high_temperature_pools_evenly():
    query_BD, token_BND = inputs()
    weight_BN = PseudoInteraction(12, temperature=1e6).double().attention(query_BD, token_BND)
    torch.testing.assert_close(weight_BN, torch.full_like(weight_BN, 1 / 16), rtol=1e-4, atol=0)
