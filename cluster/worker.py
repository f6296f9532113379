"""What one training worker does, from the first block of the stream to the last."""

import tempfile
from pathlib import Path
from typing import Any, cast

import fsspec
import numpy as np
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from torch import Tensor

from cluster.collectives import gather
from cluster.engine import clamp_scale, start_engine, whole_weights
from cluster.meter import Meter
from cluster.placement import autocast_dtype
from cluster.saver import Saver
from cluster.state import load_state
from cluster.task import BLOCKS, TrainTask
from fpig_core.backbone import tokenize
from fpig_core.bundle import CONFIG, WEIGHTS
from fpig_core.metrics import retrieval_metrics
from fpig_core.models import build_model
from fpig_core.rows import Noise
from fpig_core.speed import checkpoint_blocks, compile_blocks
from fpig_core.start import start_from
from fpig_core.training_step import TrainingStep


class TrainWorker:
    """One data-parallel worker: takes its blocks in order, trains, validates, saves."""

    def __init__(self, task: TrainTask):
        self.task, self.schedule, self.monitor = task, task.schedule, task.monitor
        self.rank, self.num_workers = dist.get_rank(), dist.get_world_size()
        self.rows = -(-task.schedule.global_batch // self.num_workers)
        self.device = ray.train.torch.get_device()
        torch.manual_seed(task.seed)
        self.model = build_model(task.model)
        if task.start_url:
            self._start_from(task.start_url)
        if task.placement.gradient_checkpointing:
            checkpoint_blocks(self.model)
        if task.placement.compile:
            compile_blocks(self.model)
        self.engine = start_engine(
            TrainingStep(self.model, micro_batch=task.placement.micro_batch, gather=gather, rank=self.rank),
            task.optim,
            zero_stage=task.placement.zero_stage,
            rows=self.rows,
            num_steps=self.schedule.num_steps,
            dtype=autocast_dtype(task.placement.precision, self.device),
        )
        self.saver = Saver(task.checkpoints, keep=self.monitor.keep_checkpoints)
        self.meter = Meter(self.device)
        self.validated: list[tuple[Tensor, Tensor, Tensor]] = []
        self.best_val_r1 = -1.0

    def _start_from(self, bundle_url: str) -> None:
        filesystem, root = fsspec.core.url_to_fs(bundle_url)
        with tempfile.TemporaryDirectory() as local:
            for name in (WEIGHTS, CONFIG):
                filesystem.get_file(f"{root}/{name}", f"{local}/{name}")
            start_from(self.model, local)

    def run(self) -> None:
        """Work through the stream; the number of its first block names the checkpoint to start from."""
        shard = ray.train.get_dataset_shard(BLOCKS)
        assert shard is not None
        blocks: Any = shard.iter_batches(batch_size=cast(int, None), prefetch_batches=2)  # None: whole blocks
        batch = -1
        for block in self.meter.timed(blocks):
            if batch < 0:
                batch = int(block["batch"][0])
                if batch:
                    self._restore(batch)
            self._check_place(block, batch)
            self.meter.note_rejected(block)
            if self.schedule.place(batch).phase == "train":
                self._train(block, batch)
            else:
                self._validate(block, batch)
            batch += 1
            if self._wants_checkpoint(batch):
                self.saver.save(self.engine, batch=batch, best_val_r1=self.best_val_r1)
        if batch not in (-1, self.schedule.num_batches):
            raise RuntimeError(f"the stream ended before batch {batch} of {self.schedule.num_batches}")
        if not self.saver.wait():
            raise RuntimeError(
                "the last checkpoint was not saved; make room on storage and start the same command again"
            )

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
        # One seed a batch: a resumed run, or one on more workers, drops and draws what any other does.
        seed = self.task.seed * self.schedule.num_batches + batch
        losses = self.engine(*self._inputs(block), noise=Noise(seed=seed, first=self.rank * self.rows))
        self.engine.backward(losses["loss"])
        self.engine.step()
        clamp_scale(self.model)
        self.meter.note_step(losses, int(block["ok"].sum()))
        step = self.schedule.steps_before(batch + 1)
        if step % self.monitor.log_every == 0 or step == self.schedule.num_steps:
            self._report(step, self._step_metrics(batch))

    def _step_metrics(self, batch: int) -> dict[str, float]:
        metrics = self.meter.take()
        metrics["lr"] = self.engine.get_lr()[0]
        grad_norm = self.engine.get_global_grad_norm()
        if grad_norm is not None:
            metrics["grad_norm"] = float(grad_norm)
        metrics["epoch"] = self.schedule.place(batch).epoch
        return metrics

    @torch.no_grad()
    def _validate(self, block: dict[str, Any], batch: int) -> None:
        self.engine.eval()
        frames, words, valid = self._inputs(block)
        vectors = self.engine(frames, words, valid)
        self.validated.append((vectors["text"], vectors["video"], valid))
        if self.schedule.ends_epoch(batch):
            text, video, valid = (gather(torch.cat(parts)) for parts in zip(*self.validated, strict=True))
            self.validated.clear()
            text, video = text[valid], video[valid]
            if not len(text):
                # Nothing could be decoded: the rejected samples tell why, and there is nothing to choose a model by.
                return
            metrics = retrieval_metrics(text, video, torch.arange(len(text), device=self.device))
            validation = {
                f"{direction}_{name.lower().replace('@', '')}": value
                for direction, values in metrics.items()
                for name, value in values.items()
            }
            self._keep_best(validation, batch)
            self._report(
                self.schedule.steps_before(batch), {f"val_{name}": value for name, value in validation.items()}
            )

    def _keep_best(self, validation: dict[str, float], batch: int) -> None:
        if validation["t2v_r1"] <= self.best_val_r1:
            return
        self.best_val_r1 = validation["t2v_r1"]
        with whole_weights(self.model):
            if self.rank == 0:
                self.task.best.save(self.model, batch=batch, validation=validation)
        dist.barrier()

    def _report(self, step: int, metrics: dict[str, float]) -> None:
        """Hand a metric point and this worker's rejected samples to the driver."""
        ray.train.report({"step": step, "metrics": metrics, "rejected": self.meter.rejected})
        self.meter.rejected = []

    def _wants_checkpoint(self, batch: int) -> bool:
        if batch == self.schedule.num_batches:
            return True
        steps = self.schedule.steps_before(batch)
        return self.schedule.place(batch - 1).phase == "train" and steps % self.monitor.checkpoint_every == 0

    def _restore(self, batch: int) -> None:
        """Load the checkpoint before ``batch``, on all workers the same one."""
        found = [self.task.checkpoints.at(batch) if self.rank == 0 else None]
        dist.broadcast_object_list(found)
        (checkpoint,) = found
        assert checkpoint
        with tempfile.TemporaryDirectory() as local:
            self.task.checkpoints.download(checkpoint, Path(local))
            load_state(self.engine, Path(local), num_steps=self.schedule.steps_before(batch))
        self.best_val_r1 = checkpoint.best_val_r1
