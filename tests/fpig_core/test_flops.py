"""Costs counted on ``meta`` are those of the same model with real numbers, and what other ways of counting say."""

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from fpig_core.flops import AsOnGpu, Tally, count_flops, step_cost
from fpig_core.models import build_model
from fpig_core.rows import Noise
from fpig_core.speed import checkpoint_blocks
from fpig_core.training_step import TrainingStep
from tests.methods import METHOD_CONFIGS, build_method, make_batch


def empty(name: str):
    with torch.device("meta"):
        return build_model(METHOD_CONFIGS[name])


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "micro_batch"),
    [
        ("mean_pool", 0),
        ("fpig", 2),
        *(pytest.param(name, size, marks=SLOW) for name in ("vip_mean", "eercf", "t2v2t") for size in (0, 2)),
    ],
)
def test_meta_counts_what_numbers_cost(name, micro_batch):
    counted, real = empty(name), build_method(name)
    wanted = step_cost(real, rows=4, num_workers=2, micro_batch=micro_batch)
    found = step_cost(counted, rows=4, num_workers=2, micro_batch=micro_batch)
    assert found.flops == wanted.flops
    assert found.peak_bytes == pytest.approx(wanted.peak_bytes, rel=0.01)
    assert found.activation_bytes == pytest.approx(wanted.activation_bytes, rel=0.01)
    assert all(parameter.grad is None for parameter in real.parameters())


def test_flops_are_those_of_a_real_step():
    """Without the stand-ins: on a CPU the attention is fused as well."""
    model = build_method("fpig")
    frames, words = make_batch()
    step = TrainingStep(model)

    def run() -> None:
        step(frames, words, torch.ones(6, dtype=torch.bool), noise=Noise(seed=0))["loss"].backward()

    assert step_cost(empty("fpig"), rows=6).flops == count_flops(run)


def test_live_bytes_at_the_end_of_the_forward_pass_are_what_is_saved_for_the_backward_pass():
    model = empty("mean_pool")
    frames = torch.zeros(4, 3, 3, 32, 32, dtype=torch.uint8, device="meta")
    words = torch.ones(4, 12, dtype=torch.int64, device="meta")
    valid = torch.ones(4, dtype=torch.bool, device="meta")
    known = {x.untyped_storage()._cdata for x in (*model.parameters(), *model.buffers(), frames, words, valid)}
    saved: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            saved[storage._cdata] = storage
        return tensor

    live = Tally(beside=[*model.parameters(), *model.buffers(), frames, words, valid])
    with AsOnGpu(torch.float32), live, saved_tensors_hooks(pack, lambda tensor: tensor):
        losses = TrainingStep(model)(frames, words, valid)
    beside = sum(loss.untyped_storage().nbytes() for loss in losses.values())
    assert live.now == pytest.approx(sum(storage.nbytes() for storage in saved.values()), abs=beside)


def test_live_bytes_count_a_storage_once_while_it_lives():
    given = torch.ones(10)
    with Tally(beside=[given]) as live:
        given.add_(1)
        made = given * 2
        view = made[2:]
        assert live.now == 40
        del made
        assert live.now == 40
        del view
        assert live.now == 0
        _ = torch.zeros(3), torch.zeros(5)
    assert live.peak == 40


@pytest.mark.slow
def test_less_is_kept_in_half_precision_in_pieces_and_with_checkpoints():
    model = empty("vip_mean")
    plain = step_cost(model, rows=64)
    half = step_cost(model, rows=64, dtype=torch.bfloat16)
    pieces = step_cost(model, rows=64, micro_batch=16)
    checkpoint_blocks(model)
    checkpointed = step_cost(model, rows=64)
    assert half.activation_bytes < plain.activation_bytes
    assert pieces.activation_bytes < plain.activation_bytes
    assert checkpointed.activation_bytes < plain.activation_bytes
    assert half.flops == plain.flops
    assert plain.flops < checkpointed.flops <= pieces.flops


@pytest.mark.slow
def test_many_pieces_cost_what_they_would_one_by_one(monkeypatch):
    model = empty("mean_pool")
    guess = step_cost(model, rows=24, num_workers=3, micro_batch=4)
    monkeypatch.setattr("fpig_core.flops.MOST_PIECES", 6)
    exact = step_cost(model, rows=24, num_workers=3, micro_batch=4)
    assert guess.flops == exact.flops
    assert guess.peak_bytes == pytest.approx(exact.peak_bytes, rel=0.01)


def test_autocast_makes_products_half_and_norms_whole():
    layer, norm = nn.Linear(8, 8, device="meta"), nn.LayerNorm(8, device="meta")
    x = torch.zeros(2, 8, device="meta")
    with AsOnGpu(torch.bfloat16):
        assert layer(x).dtype == (x @ layer.weight).dtype == torch.bfloat16
        assert norm(layer(x)).dtype == torch.float32
