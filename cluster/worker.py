"""What one training worker does, from the first block of the stream to the last."""

import contextlib
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import ray.train
import ray.train.torch
import ray.util
import torch
import torch.distributed as dist
from ray.train.v2.api.preemption import PreemptionInfo
from torch import Tensor

from cluster.checkpoints import Checkpoint
from cluster.collectives import gather
from cluster.ema import AveragedWeights
from cluster.engine import clamp_scale, start_engine, take_step, whole_weights
from cluster.estimate import rate_metrics
from cluster.load import node_load
from cluster.meter import LossError, Meter
from cluster.placement import autocast_dtype
from cluster.profiling import trace_steps
from cluster.pulse import Pulse, Vote
from cluster.reports import WorkerReport
from cluster.saver import Saver
from cluster.state import load_state
from cluster.task import TrainTask
from cluster.validation import RankedQuery, Validation
from fpig_core.backbone import tokenize
from fpig_core.bundle import CONFIG, WEIGHTS
from fpig_core.models import build_model
from fpig_core.rows import Noise
from fpig_core.speed import checkpoint_blocks, compile_blocks
from fpig_core.start import start_from
from fpig_core.training_step import TrainingStep

TELL_S = 3.0
"""Between two reports to the driver, each with all metric points since the last. Ray Train takes one in two seconds and
lets a worker that has another wait."""


class TrainWorker:
    """One data-parallel worker: takes its blocks in order, trains, validates, saves."""

    def __init__(self, task: TrainTask, pulse: Pulse):
        self.task, self.schedule, self.monitor, self.pulse = task, task.schedule, task.monitor, pulse
        self.rank, self.num_workers = dist.get_rank(), dist.get_world_size()
        self.rows = -(-task.schedule.global_batch // self.num_workers)
        self.device = ray.train.torch.get_device()
        self.node, self.local_rank = ray.util.get_node_ip_address(), ray.train.get_context().get_local_rank()
        self.dtype = autocast_dtype(task.placement.precision, self.device)
        self.meter = Meter(self.device, pulse)
        torch.manual_seed(task.seed)
        self.model = build_model(task.model)
        if task.start_url:
            self._start_from(task.start_url)
        if task.placement.gradient_checkpointing:
            checkpoint_blocks(self.model)
        if task.placement.compile:
            compile_blocks(self.model)
        self.engine = start_engine(
            TrainingStep(self.model, micro_batch=task.placement.micro_batch, gather=self._gather, rank=self.rank),
            task.optim,
            zero_stage=task.placement.stage_of(self.num_workers),
            offload=task.placement.offload,
            rows=self.rows,
            num_steps=self.schedule.num_steps,
            dtype=self.dtype,
        )
        self.average = AveragedWeights(self.engine, decay=task.optim.ema)
        # Of the time since the checkpoint before the last: one of them may fail.
        self.noted: deque[list[WorkerReport]] = deque([[]], maxlen=2)
        self.untold: list[WorkerReport] = []
        self.told_at = time.monotonic()
        self.saver = Saver(task.checkpoints, keep=self.monitor.keep_checkpoints)
        self.vote = Vote(2)
        self.validation = Validation(self.device)
        self.best_val_r1 = -1.0
        self.preemption: PreemptionInfo | None = None
        self.was_preempted = False

    def _gather(self, local: Tensor) -> Tensor:
        with self.meter.inside("gather"):
            return gather(local)

    def _start_from(self, bundle_url: str) -> None:
        filesystem, root = fsspec.core.url_to_fs(bundle_url)
        with tempfile.TemporaryDirectory() as local:
            for name in (WEIGHTS, CONFIG):
                filesystem.get_file(f"{root}/{name}", f"{local}/{name}")
            start_from(self.model, local)

    def run(self, blocks: Iterable[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        """Work through the blocks, which start at the checkpoint: to its end, or to the wish to stop.

        Raises:
            DamagedError: what the checkpoint holds is not what was saved.
            LossError: the loss is no number any more.
        """
        if checkpoint:
            self._restore(checkpoint)
        first_batch = checkpoint.batch if checkpoint else 0
        trace = contextlib.nullcontext(lambda: None)
        if self.task.profile:
            trace = trace_steps(self.task.run_url, rank=self.rank, device=self.device)
        with trace as end_step:
            try:
                self._work(blocks, first_batch=first_batch, end_step=end_step)
            except LossError:
                self._tell()
                raise
        self._tell()
        self.meter.enter("checkpoint")
        if not self.saver.wait():
            raise RuntimeError(
                "the last checkpoint was not saved; make room on storage and start the same command again"
            )

    def _work(self, blocks: Iterable[dict[str, Any]], *, first_batch: int, end_step: Callable[[], None]) -> None:
        """Train, validate and save by ``blocks``; ``end_step`` is called after each training step."""
        batch = first_batch - 1
        for batch, block in self.meter.timed(blocks, first_batch=first_batch):
            self._check_place(block, batch)
            self.meter.note_rejected(block)
            if self.schedule.place(batch).phase == "train":
                self._train(block, batch)
                end_step()
            else:
                self.meter.leave_out()
                self._validate(block, batch)
            stops, tells = self.vote.cast(self.pulse.should_stop, self._is_time_to_tell())
            if tells:
                self._tell()
            if stops or self._wants_checkpoint(batch + 1) or self._fears_loss_of_a_node():
                self._save(batch + 1)
            if stops:
                break
        else:
            if batch + 1 != self.schedule.num_batches:
                raise RuntimeError(f"the stream ended before batch {batch + 1} of {self.schedule.num_batches}")

    def _save(self, batch: int) -> None:
        """Save the state before ``batch``. In mid-validation that is the state before its first batch."""
        place = self.schedule.place(batch)
        if place.phase == "val":
            batch -= place.index
        self._note_steps(batch)
        self.meter.enter("checkpoint")
        self.average.use(False)
        noted = [report for since in self.noted for report in since]
        self.saver.save(self.engine, batch=batch, best_val_r1=self.best_val_r1, reports=noted)
        self.noted.append([])

    def _check_place(self, block: dict[str, Any], batch: int) -> None:
        """A lost row or a block out of turn would mix the batches silently."""
        first = self.rank * self.rows
        slots = np.arange(first, first + self.rows)
        if not (np.array_equal(block["slot"], slots) and (block["batch"] == batch).all()):
            raise RuntimeError(
                f"worker {self.rank} wanted slots {first} to {first + self.rows - 1} of batch {batch}, got slots "
                f"{block['slot'][0]} to {block['slot'][-1]} of batch {block['batch'][0]}: the stream lost its order"
            )

    def _inputs(self, block: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """A block's frames and words, and which of its rows are real."""
        frames = torch.from_numpy(block["frames"].copy()).to(self.device, non_blocking=True)
        words = tokenize(block["caption"].tolist(), context_length=self.task.model.backbone.context_length)
        valid = torch.from_numpy(block["ok"].copy()).to(self.device, non_blocking=True)
        return frames, words.to(self.device, non_blocking=True), valid

    def _train(self, block: dict[str, Any], batch: int) -> None:
        self.engine.train()
        self.average.use(False)
        inputs = self._inputs(block)
        # One seed a batch: a resumed run, or one on more workers, drops and draws what any other does.
        seed = self.task.seed * self.schedule.num_batches + batch
        self.meter.enter("forward")
        losses = self.engine(*inputs, noise=Noise(seed=seed, first=self.rank * self.rows))
        self.meter.enter("backward")
        self.engine.backward(losses["loss"])
        self.meter.enter("optimizer")
        grad_norm = take_step(self.engine)
        clamp_scale(self.model)
        self.average.update()
        if grad_norm is not None:
            losses["grad_norm"] = grad_norm
        self.meter.note_step(losses, block)
        step = self.schedule.steps_before(batch + 1)
        if step % self.monitor.log_every == 0 or step == self.schedule.num_steps:
            self._note_steps(batch + 1)

    def _note_steps(self, batch: int) -> None:
        """Make a metric point of the steps before ``batch`` that none tells of yet."""
        if self.meter.has_steps:
            metrics = self.meter.take()
            metrics |= {"lr": self.engine.get_lr()[0], "epoch": self.schedule.place(batch - 1).epoch}
            rate = self.task.flops_per_sample * metrics["samples_per_s"] / self.num_workers
            metrics |= rate_metrics(rate, device=self.device, dtype=self.dtype)
            self._note(self.schedule.steps_before(batch), metrics)

    @torch.no_grad()
    def _validate(self, block: dict[str, Any], batch: int) -> None:
        self.engine.eval()
        self.average.use(True)
        frames, words, valid = self._inputs(block)
        self.meter.enter("validation")
        vectors = self.engine(frames, words, valid)
        self.validation.add(vectors, block)
        if not self.schedule.ends_epoch(batch):
            return
        judged = self.validation.judge()
        if judged is None:
            # Nothing could be decoded: the rejected samples tell why, and there is nothing to choose a model by.
            return
        self._keep_best(judged.metrics, batch)
        metrics = {f"val_{name}": value for name, value in judged.metrics.items()}
        self._note(self.schedule.steps_before(batch), metrics, queries=judged.queries)

    def _keep_best(self, validation: dict[str, float], batch: int) -> None:
        """Save the model if it is the best so far. If that fails, a later one that beats the best saved one is."""
        if validation["t2v_r1"] <= self.best_val_r1:
            return
        with whole_weights(self.model):
            is_saved = self.task.best.save_from_one(self.model, batch=batch, validation=validation)
        if is_saved:
            self.best_val_r1 = validation["t2v_r1"]

    def _note(self, step: int, metrics: dict[str, float], *, queries: Sequence[RankedQuery] = ()) -> None:
        """Keep a metric point and this worker's rejected samples for the driver."""
        noted = {
            "step": step,
            "metrics": metrics,
            "load": node_load(self.node, local_rank=self.local_rank, device=self.device),
            "rejected": self.meter.rejected,
            "steps": self.meter.steps if self.monitor.record_steps else [],
            # All workers have the same.
            "queries": queries if self.rank == 0 else (),
        }
        self.noted[-1].append(noted)
        self.untold.append(noted)
        self.meter.rejected, self.meter.steps = [], []

    def _is_time_to_tell(self) -> bool:
        """By the clock of one worker: all must tell at the same batch."""
        if self.rank or time.monotonic() < self.told_at + TELL_S:
            return False
        self.told_at = time.monotonic()
        return True

    def _tell(self) -> None:
        """Hand the driver what was noted since the last time, and hear whether a node will go."""
        if self.untold:
            ray.train.report({"points": self.untold})
        self.untold = []
        self.preemption = ray.train.get_preemption_info()

    def _fears_loss_of_a_node(self) -> bool:
        """Whether a node is known to go soon, for the first time."""
        is_new = self.preemption is not None and not self.was_preempted
        self.was_preempted |= is_new
        return is_new

    def _wants_checkpoint(self, batch: int) -> bool:
        if batch == self.schedule.num_batches:
            return True
        steps = self.schedule.steps_before(batch)
        return self.schedule.place(batch - 1).phase == "train" and steps % self.monitor.checkpoint_every == 0

    def _restore(self, checkpoint: Checkpoint) -> None:
        with tempfile.TemporaryDirectory() as local:
            self.task.checkpoints.download(checkpoint, Path(local))
            load_state(self.engine, Path(local), num_steps=self.schedule.steps_before(checkpoint.batch))
        self.best_val_r1 = checkpoint.best_val_r1
