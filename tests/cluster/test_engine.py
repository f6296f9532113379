"""DeepSpeed under every ZeRO stage: the training of plain PyTorch on one worker, also when workers and stage change."""

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from cluster.collectives import gather
from cluster.optim import Optim, make_optimizer, make_scheduler
from fpig_core.rows import Noise
from fpig_core.training_step import TrainingStep
from tests.cluster.gloo import LIMIT_S, run_workers
from tests.methods import build_method, make_batch

ROWS, STEPS = 8, 3
ZERO_STAGES = (0, 1, 2, 3)
OPTIM = Optim(lr=2e-4, backbone_rate=0.5)
# One of each method: the variants differ in what they compute, not in how their parameters are held.
ALL_ROWS = slice(0, ROWS)
METHODS = ("fpig", "fpig, generator stage", "mean_pool", "vip_mean", "eercf", "t2v2t")


class Case(NamedTuple):
    optim: Optim
    offload: bool = False
    atol: float = 1e-4


PLAIN = Case(OPTIM)
STAGED = Case(Optim(lr=2e-4, backbone_rate=0.5, layer_decay=0.7, freeze=0.1, warmup=0.2, ema=0.6))
# Without clipping, gradients that are rounding alone stand above Adam's epsilon: their steps are lr, to either side.
UNCLIPPED_ON_THE_HOST = Case(dataclasses.replace(STAGED.optim, clip_norm=0.0), offload=True, atol=1e-3)
Stages = tuple[tuple[int, int], ...]


class Trained(NamedTuple):
    losses: list[float]
    norms: list[float]
    weights: dict[str, Any]
    averaged: dict[str, Any]
    """The average of the weights after all steps, and the ``vectors`` that it gives."""


def inputs(step: int, *, part: slice) -> tuple[list[torch.Tensor], Noise]:
    more = make_batch(step + STEPS)
    frame, word = (torch.cat([x, y])[:ROWS] for x, y in zip(make_batch(step), more, strict=True))
    valid = torch.tensor([row != 2 or step != 1 for row in range(ROWS)])
    return [x[part] for x in (frame, word.roll(step, dims=0), valid)], Noise(seed=step, first=part.start)


@functools.cache
def train_plainly(name: str, optim: Optim = OPTIM) -> Trained:
    """The oracle: one process, no engine, all rows at once; the average is that of all weights, at its end."""
    model = build_method(name)
    step_module = TrainingStep(model)
    optimizer = make_optimizer(step_module, optim, backbone=model.backbone_parameters())
    scheduler = make_scheduler(optimizer, optim, num_steps=10)
    losses, norms, weights = [], [], []
    for step in range(STEPS):
        batch, noise = inputs(step, part=ALL_ROWS)
        loss = step_module(*batch, noise=noise)["loss"]
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), optim.clip_norm or math.inf)))
        optimizer.step()
        scheduler.step()
        model.clamp()
        losses.append(loss.item())
        weights.append(values_of(model))
    last = weights[-1]
    shares = [optim.ema ** (STEPS - step) for step in range(1, STEPS + 1)]
    averaged = {
        key: sum(share * step[key] for share, step in zip(shares, weights, strict=True)) / sum(shares) for key in last
    }
    model.load_state_dict({key: torch.from_numpy(value) for key, value in averaged.items()})
    return Trained(losses, norms, last, averaged | {"vectors": vectors_of(step_module, part=ALL_ROWS)})


def values_of(model: nn.Module) -> dict[str, Any]:
    """As arrays, which pass between processes."""
    return {key: tensor.detach().clone().numpy() for key, tensor in model.state_dict().items()}


def start(
    rank: int, num_workers: int, zero_stage: int, model: Any, *, optim: Optim = OPTIM, offload: bool = False
) -> Any:
    from cluster.engine import start_engine

    rows = ROWS // num_workers
    # ZeRO-3 allows no micro-batches: the placement refuses them.
    step = TrainingStep(model, micro_batch=0 if zero_stage == 3 else 2, gather=gather, rank=rank)
    options: dict[str, Any] = {"zero_stage": zero_stage, "offload": offload, "rows": rows}
    return start_engine(step, optim, **options, num_steps=10, dtype=torch.float32)


def advance(engine: Any, step: int, *, part: slice) -> tuple[float, float]:
    from cluster.engine import clamp_scale, take_step

    batch, noise = inputs(step, part=part)
    engine.train()
    loss = engine(*batch, noise=noise)["loss"]
    engine.backward(loss)
    norm = take_step(engine)
    clamp_scale(engine.module.model)
    return float(gather(loss.detach()[None]).mean()), math.nan if norm is None else float(norm)


def train_leg(
    rank: int, num_workers: int, zero_stage: int, name: str, folder: Path, first: int, last: int, case: Case = PLAIN
) -> Trained:
    """Steps [first, last), from the state that others may have left in the folder and to that for others."""
    from cluster.ema import AveragedWeights
    from cluster.state import load_state, save_state

    rows = ROWS // num_workers
    part = slice(rank * rows, (rank + 1) * rows)
    model = build_method(name)
    engine = start(rank, num_workers, zero_stage, model, optim=case.optim, offload=case.offload)
    average = AveragedWeights(engine, decay=case.optim.ema)
    if first:
        load_state(engine, folder / str(first), num_steps=first)
    told, averaged = [], {}
    for step in range(first, last):
        told.append(advance(engine, step, part=part))
        average.update()
        if case.optim.ema:
            average.use(True)
            averaged = whole_values(model) | {"vectors": vectors_of(engine, part=part)}
            average.use(False)
    (folder / str(last)).mkdir(parents=True, exist_ok=True)
    save_state(engine, folder / str(last))
    torch.distributed.barrier()
    losses, norms = map(list, zip(*told, strict=True))
    return Trained(losses, norms, whole_values(model), averaged)


def train_some(rank: int, num_workers: int, zero_stage: int, folder: str, first: int, last: int) -> dict[str, Trained]:
    """Every method through steps [first, last)."""
    return {
        name: train_leg(rank, num_workers, zero_stage, name, Path(folder) / str(number), first, last)
        for number, name in enumerate(METHODS)
    }


def train_under_stages(
    rank: int, num_workers: int, folder: str, first: int, last: int
) -> dict[int, dict[str, Trained]]:
    """The same under each ZeRO stage, one after the other."""
    return {
        stage: train_some(rank, num_workers, stage, f"{folder}/stage-{stage}", first, last) for stage in ZERO_STAGES
    }


def train_over_restarts(rank: int, num_workers: int, folder: str, case: Case, stages: Stages) -> list[Trained]:
    """F-Pig through all steps, the last one by a new engine; for each pair of ZeRO stages."""
    results = []
    for number, (before, after) in enumerate(stages):
        here = Path(folder) / str(number)
        train_leg(rank, num_workers, before, "fpig", here, 0, STEPS - 1, case)
        results.append(train_leg(rank, num_workers, after, "fpig", here, STEPS - 1, STEPS, case))
    return results


def whole_values(model: nn.Module) -> dict[str, Any]:
    from cluster.engine import whole_weights

    with whole_weights(model):
        return values_of(model)


def vectors_of(step_module: Any, *, part: slice) -> Any:
    """What validation computes, of all rows."""
    step_module.eval()
    with torch.no_grad():
        vectors = step_module(*inputs(0, part=part)[0])["video"]
    return (gather(vectors) if part != ALL_ROWS else vectors).numpy()


def require_equal(workers: list[dict[str, Trained]], *, first: int) -> None:
    for name in METHODS:
        wanted = train_plainly(name)
        for got in (worker[name] for worker in workers):
            assert got.losses == pytest.approx(wanted.losses[first:], rel=1e-4), name
            assert got.norms == pytest.approx(wanted.norms[first:], rel=1e-3), name
            require_near(got.weights, wanted.weights, of=name)


def require_near(got: dict[str, Any], wanted: dict[str, Any], *, of: str, atol: float = 1e-4) -> None:
    assert got.keys() == wanted.keys()
    for key in wanted:
        # Adam turns rounding of a gradient near zero into a step of up to lr.
        np.testing.assert_allclose(got[key], wanted[key], rtol=1e-4, atol=atol, err_msg=f"{of}: {key}")


def require_same_way(got: dict[str, Any], wanted: dict[str, Any], *, start: dict[str, Any], of: str) -> None:
    """Matrices have moved alike, within 5 % of their way: so were their rates, however small."""
    for key, begin in start.items():
        if begin.ndim >= 2:  # among the vectors are biases of keys, whose gradients are rounding alone
            way, off = np.linalg.norm(wanted[key] - begin), np.linalg.norm(got[key] - wanted[key])
            assert off <= 0.05 * way, f"{of}: {key} is off by {off} after a way of {way}"


@pytest.mark.slow
@pytest.mark.timeout(2 * LIMIT_S)
@pytest.mark.parametrize("num_workers", [1, 2, 4])
def test_workers_train_like_plain_pytorch_under_every_stage_also_over_a_restart(tmp_path, num_workers) -> None:
    run_workers(train_under_stages, num_workers, str(tmp_path), 0, STEPS - 1)
    workers = run_workers(train_under_stages, num_workers, str(tmp_path), STEPS - 1, STEPS)
    for stage in ZERO_STAGES:
        print(f"{num_workers} workers, ZeRO-{stage}")
        require_equal([worker[stage] for worker in workers], first=STEPS - 1)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("stages", [(1, 1, 1), (3, 0, 2), (2, 3, 0)])
def test_a_state_fits_other_workers_and_stages(tmp_path, stages) -> None:
    """One step on each of two, one and two workers."""
    for step, (num_workers, zero_stage) in enumerate(zip((2, 1, 2), stages, strict=True)):
        workers = run_workers(train_some, num_workers, zero_stage, str(tmp_path), step, step + 1)
    require_equal(workers, first=STEPS - 1)


def require_staged(results: list[Trained], *, wanted: Trained, case: Case, of: str) -> None:
    start = values_of(build_method("fpig"))
    for got in results:
        assert got.losses == pytest.approx(wanted.losses[STEPS - 1 :], rel=1e-4), of
        require_near(got.weights, wanted.weights, of=of, atol=case.atol)
        require_near(got.averaged, wanted.averaged, of=f"{of}, average", atol=case.atol)
        require_same_way(got.weights, wanted.weights, start=start, of=of)
        require_same_way(got.averaged, wanted.averaged, start=start, of=f"{of}, average")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("case", "stages"),
    [(STAGED, ((1, 1), (3, 3), (0, 3), (3, 2))), (UNCLIPPED_ON_THE_HOST, ((2, 2), (1, 3)))],
)
def test_stages_and_the_average_are_those_of_plain_pytorch_also_over_a_restart(tmp_path, case, stages) -> None:
    """Rates by depth, a frozen first step, validation of the average after every step."""
    wanted = train_plainly("fpig", case.optim)
    workers = run_workers(train_over_restarts, 2, str(tmp_path), case, stages)
    for of, results in zip(map(str, stages), zip(*workers, strict=True), strict=True):
        require_staged(list(results), wanted=wanted, case=case, of=of)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_average_fits_other_workers_and_stages(tmp_path) -> None:
    """One step on each of two, one and two workers."""
    results: list[Trained] = []
    for step, (num_workers, zero_stage) in enumerate(((2, 3), (1, 0), (2, 2))):
        results = run_workers(train_leg, num_workers, zero_stage, "fpig", tmp_path, step, step + 1, STAGED)
    require_staged(results, wanted=train_plainly("fpig", STAGED.optim), case=STAGED, of="other workers")


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
