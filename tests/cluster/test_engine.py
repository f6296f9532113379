"""DeepSpeed under every ZeRO stage: the same training as plain PyTorch on one worker, and a checkpoint that goes on."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cluster.collectives import gather
from cluster.optim import Optim, make_optimizer, make_scheduler
from fpig_core.backbone import Backbone
from fpig_core.fpig import MAX_SCALE, FPig, FPigConfig
from fpig_core.models import build_model
from fpig_core.preprocess import Preprocess
from tests.cluster.gloo import run_workers

ROWS, STEPS = 4, 3
OPTIM = Optim(lr=1e-3)
# dropout off: its masks depend on how the batch is cut.
CONFIG = FPigConfig(
    backbone=Backbone(name="tiny"), preprocess=Preprocess(num_frames=2, size=32), num_selected=4, dropout=0.0
)


def make_model() -> FPig:
    torch.manual_seed(0)
    return build_model(CONFIG)


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    frames = torch.randint(0, 256, (ROWS, 2, 3, 32, 32), dtype=torch.uint8, generator=generator)
    words = torch.randint(1, 49_000, (ROWS, 6), generator=generator)
    words[:, -1] = 49_407
    return frames, words, torch.tensor([True, True, step != 1, True])


def train_plainly() -> tuple[list[float], nn.Module]:
    """The oracle: one process, no engine."""
    model = make_model()
    optimizer = make_optimizer(model, OPTIM)
    scheduler = make_scheduler(optimizer, OPTIM, num_steps=10)
    losses = []
    for step in range(STEPS):
        frames, words, valid = batch(step)
        loss = model.loss(model(frames, words), valid)["loss"]
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), OPTIM.clip_norm)
        optimizer.step()
        scheduler.step()
        model.clamp()
        losses.append(loss.item())
    return losses, model


def train_sharded(rank: int, num_workers: int, zero_stage: int, folder: str) -> tuple[list[float], dict[str, object]]:
    from cluster.engine import clamp_scale, load_state, save_state, start_engine, whole_weights

    rows = ROWS // num_workers
    mine = slice(rank * rows, (rank + 1) * rows)

    def start() -> tuple[Any, FPig]:
        model = make_model()
        engine = start_engine(model, OPTIM, zero_stage=zero_stage, rows=rows, num_steps=10, dtype=torch.float32)
        return engine, model

    def advance(engine: Any, model: FPig, step: int) -> float:
        frames, words, valid = batch(step)
        features = engine(frames[mine], words[mine])
        loss = model.loss(features, valid[mine], gather=gather, rank=rank)["loss"]
        engine.backward(loss)
        engine.step()
        clamp_scale(model)
        return float(gather(loss.detach()[None]).mean())

    engine, model = start()
    losses = [advance(engine, model, step) for step in range(STEPS - 1)]
    save_state(engine, Path(folder))
    torch.distributed.barrier()
    resumed, model = start()
    load_state(resumed, Path(folder))
    losses.append(advance(resumed, model, STEPS - 1))
    with whole_weights(model):
        weights = {name: tensor.detach().clone().numpy() for name, tensor in model.state_dict().items()}
    return losses, weights


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_two_workers_train_like_plain_pytorch_also_over_a_restart(tmp_path, zero_stage) -> None:
    wanted_losses, wanted = train_plainly()
    results = run_workers(train_sharded, 2, zero_stage, str(tmp_path))
    for losses, weights in results:
        assert losses == pytest.approx(wanted_losses, rel=1e-4)
        for name, tensor in wanted.state_dict().items():
            # Adam turns rounding of a gradient near zero into a step of up to lr: compare with the whole path walked.
            assert torch.allclose(torch.from_numpy(weights[name]), tensor, rtol=1e-4, atol=OPTIM.lr * STEPS / 5), name


def clamp_sharded(rank: int, num_workers: int, zero_stage: int) -> float:
    from cluster.engine import clamp_scale, start_engine, whole_weights

    model = make_model()
    nn.init.constant_(model.logit_scale, 9.0)
    engine: Any = start_engine(model, OPTIM, zero_stage=zero_stage, rows=2, num_steps=10, dtype=torch.float32)
    clamp_scale(model)
    # A step whose gradient is zero for the scale shows what the master copy holds.
    frames, words, _ = batch(0)
    engine.backward(engine(frames[:2], words[:2]).video_BD.sum() * 0)
    engine.step()
    with whole_weights(model):
        return float(model.logit_scale)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("zero_stage", [1, 3])
def test_the_clamp_reaches_the_master_weights(zero_stage) -> None:
    assert run_workers(clamp_sharded, 2, zero_stage) == pytest.approx([math.log(MAX_SCALE)] * 2, abs=2e-3)


def gradients(rank: int, num_workers: int) -> list[float]:
    torch.manual_seed(rank)
    local = torch.randn(2, 3, requires_grad=True)
    everything = gather(local)
    weights = torch.arange(everything.numel(), dtype=torch.float32).view_as(everything) * (rank + 1)
    (everything * weights).sum().backward()
    assert torch.equal(everything[rank * 2 : rank * 2 + 2], local)
    assert local.grad is not None
    return local.grad.flatten().tolist()


def test_gathered_gradients_are_summed_over_workers() -> None:
    first, second = run_workers(gradients, 2)
    assert first + second == [3.0 * place for place in range(12)]
