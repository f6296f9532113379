"""Compiled and checkpointed models give what plain ones give."""

import shutil

import pytest
import torch

from fpig_core.rows import Noise
from fpig_core.speed import checkpoint_blocks, compile_blocks
from fpig_core.training_step import TrainingStep
from tests.methods import METHOD_CONFIGS, build_method, make_batch

VALID = torch.tensor([True] * 5 + [False])


def loss_and_gradients(model) -> tuple[float, dict[str, torch.Tensor]]:
    loss = TrainingStep(model, micro_batch=4)(*make_batch(), VALID, noise=Noise(seed=0))["loss"]
    loss.backward()
    return loss.item(), {key: p.grad for key, p in model.named_parameters() if p.grad is not None}


def assert_same_training(model, plain) -> None:
    (got_loss, got), (wanted_loss, wanted) = loss_and_gradients(model), loss_and_gradients(plain)
    assert got_loss == pytest.approx(wanted_loss, rel=1e-4)
    assert got.keys() == wanted.keys()
    for key, gradient in wanted.items():
        torch.testing.assert_close(got[key], gradient, rtol=1e-3, atol=1e-4, msg=key)


@pytest.mark.parametrize("name", METHOD_CONFIGS)
def test_checkpointed_blocks_train_alike(name):
    model = build_method(name)
    checkpoint_blocks(model)
    assert any(getattr(module, "grad_checkpointing", False) for module in model.modules())
    assert_same_training(model, build_method(name))


def test_captured_blocks_train_alike():
    """Without code generation, which needs a C++ compiler and more time."""
    torch.compiler.reset()
    model = build_method("fpig")
    compile_blocks(model, backend="aot_eager")
    assert_same_training(model, build_method("fpig"))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("name", METHOD_CONFIGS)
def test_compiled_blocks_train_alike(name):
    torch.compiler.reset()
    model = build_method(name)
    compile_blocks(model)
    assert_same_training(model, build_method(name))
