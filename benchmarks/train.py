"""A training step through Ray Train and DeepSpeed beside plain PyTorch (6), what the loss over workers costs (7), two
workers beside one (8), beside what two processes apart reach on the same cores, and what metrics cost (13).

Frames are on hand: a stream of made-up blocks, so that no decoding competes for the cores. Every worker has one thread.
A step time is the mean of the second half of the steps; a group's is told by its metric points (batch ÷ samples per
second), which count all that a worker does from one point to the next.
"""

import functools
import math
import statistics
import tempfile
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from benchmarks.measure import Result, Spread, is_quick, machine, save
from cluster.collectives import gather
from cluster.optim import Optim, make_optimizer
from cluster.placement import Placement
from cluster.reports import GroupReport
from cluster.session import connect
from cluster.task import Monitor, TrainTask
from cluster.tracking import Tracker, TrackerSpec, open_tracker
from cluster.training import MakeStream, run_training
from fpig_core.backbone import Backbone, tokenize
from fpig_core.fpig import FPigConfig
from fpig_core.models import build_model
from fpig_core.preprocess import Preprocess
from fpig_core.rows import Noise, Rows
from fpig_core.schedule import Schedule
from fpig_core.training_step import TrainingStep
from pipelines.blocks import block_stream
from pipelines.segments import Share, deal

BATCH, FRAME_SIZE = 64, 32
CONFIG = FPigConfig(backbone=Backbone(name="tiny"), preprocess=Preprocess(size=FRAME_SIZE))
NUM_STEPS, REPEATS = 24, 5


def main() -> None:
    quick, where = is_quick(), machine()
    torch.set_num_threads(1)
    repeats, num_steps = (1, 6) if quick else (REPEATS, NUM_STEPS)
    connect(dashboard=True)
    times: dict[str, list[float]] = {name: [] for name in ("bare", "apart", "one worker", "two workers", "metrics")}
    shares: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(repeats):
            here = Path(folder) / str(repeat)
            silent: dict[str, Any] = {"num_steps": num_steps, "log_every": num_steps // 2}
            here.mkdir()
            times["bare"].append(bare_step_s(slice(None), num_steps=num_steps))
            times["apart"].append(apart_step_s(here, num_steps=num_steps))
            times["one worker"].append(group_step_s(here / "one", Tracker(), **silent))
            times["two workers"].append(group_step_s(here / "two", Tracker(), **silent, num_workers=2))
            spec = TrackerSpec(uri=f"sqlite:///{here}/mlflow.db", run_name="bench", spool_dir=f"{here}/spool")
            with open_tracker(spec) as tracker:
                told = group_step_s(here / "metrics", tracker, num_steps=num_steps, log_every=1)
            times["metrics"].append(told)
            shares.append(loss_share(here, num_steps=num_steps // 10 + 2))
    save("train", results(times, shares), machine=where, quick=quick)


def results(times: dict[str, list[float]], shares: list[dict[str, float]]) -> list[Result]:
    def ratio(top: str, bottom: str) -> dict[str, Spread]:
        return {"wall": Spread.of([a / b for a, b in zip(times[top], times[bottom], strict=True)])}

    sides = {name: f"{statistics.median(seconds):.3f} s" for name, seconds in times.items()}
    setting = f"F-Pig, tiny, global batch {BATCH} × 12 frames"
    return [
        Result(
            goal=6,
            what=f"{setting}: step of Ray Train + DeepSpeed, one worker ÷ plain PyTorch",
            wanted="floor 1.25, goal 1.10",
            figures=ratio("one worker", "bare"),
            sides={name: sides[name] for name in ("bare", "one worker")},
        ),
        Result(
            goal=7,
            what=f"{setting}: loss and gather, forward and backward ÷ step, two workers",
            wanted="floor 0.10, goal 0.03",
            figures={"wall": Spread.of([share["loss"] for share in shares])},
            sides={"gradient error against one worker": f"{max(share['error'] for share in shares):.1e}"},
        ),
        Result(
            goal=8,
            what=f"{setting}: samples/s of two workers ÷ one worker",
            wanted="floor 1.4, goal 1.6",
            figures=ratio("one worker", "two workers"),
            sides={name: sides[name] for name in ("one worker", "two workers")}
            | {"plain PyTorch, two processes with half the batch each ÷ one": str(ratio("bare", "apart")["wall"])},
        ),
        Result(
            goal=13,
            what=f"{setting}: step with metrics into MLflow after every step ÷ without, one worker",
            wanted="floor 1.03, goal 1.01",
            figures=ratio("metrics", "one worker"),
            sides={name: sides[name] for name in ("one worker", "metrics")},
        ),
    ]


def make_inputs(rows: slice) -> tuple[Tensor, Tensor, Tensor]:
    """Frames, words and validity of these rows of the batch that every step gets."""
    frames = np.random.default_rng(0).integers(0, 256, (BATCH, 12, 3, FRAME_SIZE, FRAME_SIZE), np.uint8)
    words = tokenize([f"video number {row}" for row in range(BATCH)], context_length=CONFIG.backbone.context_length)
    return torch.from_numpy(frames)[rows], words[rows], torch.ones(BATCH, dtype=torch.bool)[rows]


def bare_step_s(rows: slice, *, num_steps: int) -> float:
    """The training step without engine: forward, backward, clipping, AdamW, clamp."""
    torch.manual_seed(0)
    model = build_model(CONFIG)
    step, inputs = TrainingStep(model), make_inputs(rows)
    optimizer = make_optimizer(step, Optim())
    seconds = []
    for number in range(num_steps):
        start = time.perf_counter()
        step(*inputs, noise=Noise(seed=number, first=0))["loss"].backward()
        torch.nn.utils.clip_grad_norm_(step.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        model.clamp()
        seconds.append(time.perf_counter() - start)
    return statistics.fmean(seconds[num_steps // 2 :])


def apart_step_s(folder: Path, *, num_steps: int) -> float:
    """The same in two processes at once, with half the batch each and nothing in common: what the cores give."""
    spawn(_half_alone, args=(str(folder), num_steps), nprocs=2)
    return statistics.fmean(float((folder / f"apart-{rank}").read_text()) for rank in range(2))


def _half_alone(rank: int, folder: str, num_steps: int) -> None:
    rows = _meet(rank, f"{folder}/apart-meeting")
    dist.barrier()
    seconds = bare_step_s(rows, num_steps=num_steps)
    Path(folder, f"apart-{rank}").write_text(str(seconds))
    dist.destroy_process_group()


def _meet(rank: int, place: str) -> slice:
    """Form a group of two processes with one thread each -> the rows that are this one's half of the batch."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
    half = BATCH // 2
    return slice(rank * half, (rank + 1) * half)


def group_step_s(folder: Path, tracker: Tracker, *, num_steps: int, log_every: int, num_workers: int = 1) -> float:
    """The step time of one worker group."""
    schedule = Schedule(num_train=BATCH, num_val=0, global_batch=BATCH, epochs=num_steps)
    task = TrainTask(
        model=CONFIG,
        optim=Optim(),
        schedule=schedule,
        seed=0,
        placement=Placement(num_workers=num_workers, device="cpu"),
        monitor=Monitor(log_every=log_every, checkpoint_every=10**9),
        run_url=str(folder),
    )
    seconds: dict[int, float] = {}

    def on_report(report: GroupReport) -> None:
        tracker.log_metrics(report.metrics, step=report.step)
        seconds[report.step] = BATCH / report.metrics["samples_per_s"]  # the last ones are told twice

    run_training(task, made_up_stream(schedule.num_batches), on_report=on_report, should_stop=lambda: False)
    return statistics.fmean(list(seconds.values())[len(seconds) // 2 :])


def made_up_stream(num_batches: int) -> MakeStream:
    """Blocks with frames that cost nothing to make."""

    def load(num_workers: int, number: int) -> dict[str, Any]:
        batch, worker = divmod(number, num_workers)
        rows = BATCH // num_workers
        slots = np.arange(worker * rows, (worker + 1) * rows)
        return {
            "batch": np.full(rows, batch),
            "slot": slots,
            "ok": np.ones(rows, dtype=bool),
            "uid": np.array([f"uid{slot}" for slot in slots], dtype=object),
            "caption": np.array([f"video number {slot}" for slot in slots], dtype=object),
            "reason": np.full(rows, "", dtype=object),
            "frames": make_inputs(slice(worker * rows, (worker + 1) * rows))[0].numpy(),
        }

    def make(first_batch: int, num_workers: int) -> AbstractContextManager[list[Share]]:
        numbers = range(first_batch * num_workers, num_batches * num_workers)
        segment = functools.partial(block_stream, functools.partial(load, num_workers), numbers)
        return deal(lambda _: segment(), num_segments=1, num_workers=num_workers)

    return make


def loss_share(folder: Path, *, num_steps: int) -> dict[str, float]:
    """The part of a step of two gloo workers that loss and gather take; the gradient's error against one worker."""
    spawn(_two_workers, args=(str(folder), num_steps), nprocs=2)
    told: Any = torch.load(folder / "told.pt", weights_only=True)
    torch.manual_seed(0)
    step = TrainingStep(build_model(CONFIG))
    step(*make_inputs(slice(None)), noise=Noise(seed=0, first=0))["loss"].backward()
    wanted = {name: parameter.grad for name, parameter in step.named_parameters() if parameter.grad is not None}
    norm = math.sqrt(sum(float(grad.square().sum()) for grad in wanted.values()))
    error = math.sqrt(sum(float((told["gradient"][name] - grad).square().sum()) for name, grad in wanted.items()))
    return {"loss": told["loss_s"] / told["step_s"], "error": error / norm}


def _two_workers(rank: int, folder: str, num_steps: int) -> None:
    rows = _meet(rank, f"{folder}/meeting")
    torch.manual_seed(0)
    model = build_model(CONFIG)
    frames, words, valid = make_inputs(rows)
    noise, step = Noise(seed=0, first=rows.start), TrainingStep(model, gather=gather, rank=rank)
    step_s, loss_s = [], []
    for _ in range(num_steps):
        step.zero_grad()
        dist.barrier()
        start = time.perf_counter()
        features = model.features(frames, words, noise=noise)
        between = time.perf_counter()
        loss = model.loss(features, Rows.of(valid, gather=gather, rank=rank, noise=noise))["loss"]
        held = [value for value in features if isinstance(value, Tensor) and value.requires_grad]
        upper = torch.autograd.grad(loss, held, retain_graph=True, allow_unused=True)
        loss_s.append(time.perf_counter() - between)
        torch.autograd.backward(
            [value for value, grad in zip(held, upper, strict=True) if grad is not None],
            [grad for grad in upper if grad is not None],
        )
        step_s.append(time.perf_counter() - start)
    step.zero_grad()
    step(frames, words, valid, noise=noise)["loss"].backward()
    gradient = {}
    for name, parameter in step.named_parameters():
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            gradient[name] = parameter.grad / 2
    if rank == 0:
        told = {"step_s": statistics.median(step_s), "loss_s": statistics.median(loss_s), "gradient": gradient}
        torch.save(told, f"{folder}/told.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
