"""Learning rate and weight decay."""

import itertools
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import nn

from cluster.optim import Optim, make_optimizer, make_scheduler, rate_factor
from fpig_core.depth import BackboneParameter
from tests.methods import build_method


def peak_rates(model: nn.Module, optim: Optim, *, backbone: Iterable[BackboneParameter]) -> dict[nn.Parameter, float]:
    groups = make_optimizer(model, optim, backbone=backbone).param_groups
    return {parameter: group["lr"] for group in groups for parameter in group["params"]}


def test_the_rate_rises_to_its_peak_and_falls_to_zero() -> None:
    rates = [rate_factor(step, Optim(warmup=0.1), num_steps=200) for step in range(201)]
    assert rates[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
    assert max(rates) == 1.0
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[20:]))
    assert rates[110] == pytest.approx(0.5)
    assert rates[200] == pytest.approx(0.0)


@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_the_shortest_runs_have_a_rate(num_steps: int) -> None:
    assert all(0 < rate_factor(step, Optim(warmup=0.01), num_steps=num_steps) <= 1 for step in range(num_steps))


def test_only_matrices_decay() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    decaying, others = make_optimizer(model, Optim(weight_decay=0.2)).param_groups
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.2, 0.0)
    assert [p.ndim for p in decaying["params"]] == [2]
    assert [p.ndim for p in others["params"]] == [1, 1, 1]


def test_the_scheduler_sets_the_rate_of_each_step() -> None:
    optim = Optim(lr=0.5, warmup=0.2)
    optimizer = make_optimizer(nn.Linear(2, 2), optim)
    scheduler = make_scheduler(optimizer, optim, num_steps=10)
    for step in range(10):
        assert scheduler.get_last_lr()[0] == pytest.approx(0.5 * rate_factor(step, optim, num_steps=10))
        optimizer.step()
        scheduler.step()


def test_the_rate_may_end_above_zero() -> None:
    rates = [rate_factor(step, Optim(warmup=0.1, final_rate=0.1), num_steps=200) for step in range(201)]
    assert max(rates) == 1.0
    assert rates[110] == pytest.approx(0.55)
    assert rates[200] == pytest.approx(0.1)


def test_what_clip_brought_along_may_learn_at_another_rate() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5))
    backbone = [BackboneParameter(parameter, 0) for parameter in model[0].parameters()]
    rates = peak_rates(model, Optim(lr=0.5, backbone_rate=1e-3), backbone=backbone)
    assert [rates[parameter] for parameter in model.parameters()] == [0.0005, 0.0005, 0.5, 0.5]


def test_rates_fall_with_the_blocks_above_in_both_towers() -> None:
    model = build_method("fpig")
    rates = peak_rates(model, Optim(lr=0.5, backbone_rate=0.1, layer_decay=0.5), backbone=model.backbone_parameters())
    wanted = {
        "video.conv1.weight": 3,
        "video.class_embedding": 3,
        "video.positional_embedding": 3,
        "video.ln_pre.bias": 3,
        "video.blocks.0.attn.qkv.weight": 2,
        "video.blocks.2.mlp.c_proj.bias": 0,
        "video.ln_post.weight": 0,
        "video.proj": 0,
        "text.token_embedding.weight": 2,
        "text.positional_embedding": 2,
        "text.transformer.resblocks.0.ln_1.weight": 1,
        "text.transformer.resblocks.1.attn.out_proj.weight": 0,
        "text.ln_final.bias": 0,
        "text.text_projection": 0,
    }
    got = dict(model.named_parameters())
    assert {name: rates[got[name]] for name in wanted} == {name: 0.05 * 0.5**above for name, above in wanted.items()}
    new = {rates[p] for name, p in got.items() if name.split(".")[0] not in ("video", "text")}
    assert new == {rates[model.video.temporal_embedding], rates[model.video.added_cls]} == {0.5}


def test_what_shares_rate_and_decay_is_one_group() -> None:
    model = build_method("fpig")
    for optim, rates in (
        (Optim(), 1),
        (Optim(backbone_rate=0.1), 2),
        (Optim(layer_decay=0.9), 4),
        (Optim(freeze=0.5), 2),
    ):
        groups = make_optimizer(model, optim, backbone=model.backbone_parameters()).param_groups
        assert len(groups) == 2 * rates
        assert groups[0]["lr"] == optim.lr


def test_frozen_groups_have_no_rate_and_then_a_warm_up_of_their_own() -> None:
    optim = Optim(warmup=0.1, freeze=0.4, final_rate=0.2)
    always = [rate_factor(step, optim, num_steps=50) for step in range(50)]
    waiting = [rate_factor(step, optim, num_steps=50, waits=True) for step in range(50)]
    assert always == [rate_factor(step, Optim(warmup=0.1, final_rate=0.2), num_steps=50) for step in range(50)]
    assert waiting[:20] == [0.0] * 20
    assert waiting[20:25] == pytest.approx([rate * (step + 1) / 5 for step, rate in enumerate(always[20:25])])
    assert waiting[25:] == always[25:]


def test_frozen_weights_stay_as_they_are_bit_by_bit_and_then_learn() -> None:
    torch.manual_seed(0)
    model, optim = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5)), Optim(lr=0.1, freeze=0.5, weight_decay=0.2)
    backbone = [BackboneParameter(parameter, 0) for parameter in model[0].parameters()]
    optimizer = make_optimizer(model, optim, backbone=backbone)
    scheduler = make_scheduler(optimizer, optim, num_steps=6)
    first = [parameter.detach().clone() for parameter in model.parameters()]
    for step in range(6):
        model(torch.randn(8, 3)).square().sum().backward()
        optimizer.step()
        scheduler.step()
        same = [torch.equal(*pair) for pair in zip(first, model.parameters(), strict=True)]
        assert same == [step < 3, step < 3, False, False]
        # The moments go on: what thaws knows its gradients already.
        assert all(optimizer.state[parameter]["exp_avg_sq"].any() for parameter in model.parameters())


@pytest.mark.parametrize("wrong", [{"backbone_rate": 0.0}, {"final_rate": 1.5}])
def test_wrong_rates_say_what_was_wanted(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="wanted above 0, and 0 to 1"):
        Optim(**wrong)


@pytest.mark.parametrize("wrong", [{"layer_decay": 0.0}, {"layer_decay": 1.1}, {"freeze": 1.0}, {"ema": 1.0}])
def test_wrong_stages_say_what_was_wanted(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="wanted 0 < layer_decay <= 1, 0 <= freeze < 1, 0 <= ema < 1; use 1, 0 and 0"):
        Optim(**wrong)


@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"clip_norm": -1.0}, {"warmup": 1.0}, {"weight_decay": -0.1}])
def test_wrong_settings_say_what_was_wanted(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="wanted lr > 0"):
        Optim(**wrong)


def test_frozen_parameters_are_left_out() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    assert sum(len(group["params"]) for group in make_optimizer(model, Optim()).param_groups) == 1
    assert torch.is_tensor(model.bias)
