"""The average of the weights, without ZeRO; ``test_engine.py`` has it under every stage."""

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cluster.ema import AveragedWeights
from cluster.optim import Optim, make_optimizer, make_scheduler


class PlainEngine(SimpleNamespace):
    """As much of an engine as the average looks at, over plain PyTorch."""

    def __init__(self, model: nn.Module) -> None:
        optim = Optim(lr=0.1)
        optimizer = make_optimizer(model, optim)
        super().__init__(
            optimizer=optimizer,
            lr_scheduler=make_scheduler(optimizer, optim, num_steps=100),
            zero_optimization=lambda: False,
            zero_optimization_stage=lambda: 0,
        )


def mean_of(weights: list[Tensor], *, decay: float) -> Tensor:
    """The oracle: the weights after every step, the newest counting 1 and each ``decay`` times the next one."""
    total, norm = torch.zeros_like(weights[0], dtype=torch.float64), 0.0
    for age, weight in enumerate(reversed(weights)):
        total += decay**age * weight.double()
        norm += decay**age
    return total / norm


def train(model: nn.Linear, average: AveragedWeights, engine: Any, *, num_steps: int) -> list[Tensor]:
    """The weights after every step."""
    weights = []
    for _ in range(num_steps):
        model(torch.randn(8, 3)).square().sum().backward()
        engine.optimizer.step()
        engine.optimizer.zero_grad()
        engine.lr_scheduler.step()
        average.update()
        weights.append(model.weight.detach().clone())
    return weights


@pytest.mark.parametrize("decay", [0.3, 0.9, 0.9999])
def test_the_average_is_a_weighted_mean_of_all_weights_but_the_first(decay: float) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 4)
    engine = PlainEngine(model)
    average = AveragedWeights(engine, decay=decay)
    weights: list[Tensor] = []
    for _, num_steps in itertools.product(range(3), (1, 4)):
        weights += train(model, average, engine, num_steps=num_steps)
        average.use(True)
        average.use(True)
        torch.testing.assert_close(model.weight.detach().double(), mean_of(weights, decay=decay), rtol=1e-6, atol=1e-6)
        average.use(False)
        assert torch.equal(model.weight, weights[-1])


def test_the_average_changes_no_step() -> None:
    ends = []
    for decay in (0.0, 0.9):
        torch.manual_seed(0)
        model = nn.Linear(3, 4)
        engine = PlainEngine(model)
        average = AveragedWeights(engine, decay=decay)
        ends.append(train(model, average, engine, num_steps=5)[-1])
        average.use(True)
        assert torch.equal(model.weight, ends[-1]) is (decay == 0)
    assert torch.equal(*ends)
