"""Learning rate and weight decay."""

import itertools
from typing import Any

import pytest
import torch
from torch import nn

from cluster.optim import Optim, make_optimizer, make_scheduler, rate_factor


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
    groups = make_optimizer(model, Optim(lr=0.5, backbone_rate=1e-3), backbone=model[0].parameters()).param_groups
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert [rates[id(parameter)] for parameter in model.parameters()] == [0.0005, 0.0005, 0.5, 0.5]


@pytest.mark.parametrize("wrong", [{"backbone_rate": 0.0}, {"final_rate": 1.5}])
def test_wrong_rates_say_what_was_wanted(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="wanted above 0, and 0 to 1"):
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
