"""DeepSpeed under every ZeRO stage: the training of plain PyTorch on one worker, also when workers and stage change."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cluster.collectives import gather
from cluster.optim import Optim, make_optimizer, make_scheduler
from fpig_core.rows import Noise
from fpig_core.training_step import TrainingStep
from tests.cluster.gloo import run_workers
from tests.methods import build_method, make_batch

ROWS, STEPS = 6, 3
OPTIM = Optim(lr=2e-4, backbone_rate=0.5)
# One of each method: the variants differ in what they compute, not in how their parameters are held.
METHODS = ("fpig", "fpig, generator stage", "mean_pool", "vip_mean", "eercf", "t2v2t")


def inputs(step: int, *, part: slice) -> tuple[list[torch.Tensor], Noise]:
    frame, word = make_batch(step)
    valid = torch.tensor([True, True, step != 1, True, True, True])
    return [x[part] for x in (frame, word.roll(step, dims=0), valid)], Noise(seed=step, first=part.start)


def train_plainly(name: str) -> tuple[list[float], nn.Module]:
    """The oracle: one process, no engine, all rows at once."""
    model = build_method(name)
    step_module = TrainingStep(model)
    optimizer = make_optimizer(step_module, OPTIM, backbone=model.backbone_parameters())
    scheduler = make_scheduler(optimizer, OPTIM, num_steps=10)
    losses = []
    for step in range(STEPS):
        batch, noise = inputs(step, part=slice(0, ROWS))
        loss = step_module(*batch, noise=noise)["loss"]
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), OPTIM.clip_norm)
        optimizer.step()
        scheduler.step()
        model.clamp()
        losses.append(loss.item())
    return losses, model


def start(rank: int, num_workers: int, zero_stage: int, model: Any) -> Any:
    from cluster.engine import start_engine

    rows = ROWS // num_workers
    # ZeRO-3 allows no micro-batches: the placement refuses them.
    step = TrainingStep(model, micro_batch=0 if zero_stage == 3 else 2, gather=gather, rank=rank)
    return start_engine(step, OPTIM, zero_stage=zero_stage, rows=rows, num_steps=10, dtype=torch.float32)


def advance(engine: Any, step: int, *, part: slice) -> float:
    from cluster.engine import clamp_scale

    batch, noise = inputs(step, part=part)
    loss = engine(*batch, noise=noise)["loss"]
    engine.backward(loss)
    engine.step()
    clamp_scale(engine.module.model)
    return float(gather(loss.detach()[None]).mean())


def train_some(
    rank: int, num_workers: int, zero_stage: int, folder: str, first: int, last: int
) -> dict[str, tuple[list[float], dict[str, object]]]:
    """Every method through steps [first, last), from the state that others may have left and to that for others."""
    from cluster.engine import whole_weights
    from cluster.state import load_state, save_state

    rows = ROWS // num_workers
    part = slice(rank * rows, (rank + 1) * rows)
    results = {}
    for number, name in enumerate(METHODS):
        model = build_method(name)
        engine = start(rank, num_workers, zero_stage, model)
        if first:
            load_state(engine, Path(folder) / f"{number}-{first}", num_steps=first)
        losses = [advance(engine, step, part=part) for step in range(first, last)]
        (Path(folder) / f"{number}-{last}").mkdir(exist_ok=True)
        save_state(engine, Path(folder) / f"{number}-{last}")
        torch.distributed.barrier()
        with whole_weights(model):
            results[name] = losses, {key: tensor.detach().clone().numpy() for key, tensor in model.state_dict().items()}
    return results


def require_equal(workers: list[dict[str, tuple[list[float], dict[str, Any]]]], *, first: int) -> None:
    for name in METHODS:
        wanted_losses, wanted = train_plainly(name)
        for losses, weights in (worker[name] for worker in workers):
            assert losses == pytest.approx(wanted_losses[first:], rel=1e-4), name
            for key, tensor in wanted.state_dict().items():
                # Adam turns rounding of a gradient near zero into a step of up to lr.
                assert torch.allclose(torch.from_numpy(weights[key]), tensor, rtol=1e-4, atol=1e-4), f"{name}: {key}"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_two_workers_train_like_plain_pytorch_also_over_a_restart(tmp_path, zero_stage) -> None:
    run_workers(train_some, 2, zero_stage, str(tmp_path), 0, STEPS - 1)
    require_equal(run_workers(train_some, 2, zero_stage, str(tmp_path), STEPS - 1, STEPS), first=STEPS - 1)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("stages", [(1, 1, 1), (3, 0, 2), (2, 3, 0)])
def test_a_state_fits_other_workers_and_stages(tmp_path, stages) -> None:
    """One step on each of two, one and two workers."""
    for step, (num_workers, zero_stage) in enumerate(zip((2, 1, 2), stages, strict=True)):
        workers = run_workers(train_some, num_workers, zero_stage, str(tmp_path), step, step + 1)
    require_equal(workers, first=STEPS - 1)


def clamp_sharded(rank: int, num_workers: int, zero_stage: int) -> float:
    from cluster.engine import clamp_scale, whole_weights

    model = build_method("fpig")
    nn.init.constant_(model.logit_scale, 9.0)
    engine = start(rank, num_workers, zero_stage, model)
    clamp_scale(model)
    # A step whose gradient is zero for the scale shows what the master copy holds.
    batch, noise = inputs(0, part=slice(0, ROWS // num_workers))
    engine.backward(engine(*batch, noise=noise)["loss"] * 0)
    engine.step()
    with whole_weights(model):
        return float(model.logit_scale)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("zero_stage", [1, 3])
def test_the_clamp_reaches_the_master_weights(zero_stage) -> None:
    assert run_workers(clamp_sharded, 2, zero_stage) == pytest.approx([math.log(200)] * 2, abs=2e-3)
