"""What a worker notes between two metric points, without waiting for its device."""

import contextlib
import itertools
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.profiler import record_function

from cluster.pulse import Pulse

TIMED = ("data", "transfer", "forward", "gather", "backward", "optimizer")
"""The stages of a training step whose time is told; ``gather`` waits for the other workers."""


class LossError(ArithmeticError):
    """The loss or the gradient is no number any more: a restart would meet the same batch."""


class Meter:
    """Losses, times, sample counts and rejected samples since the last metric point.

    Time counts from the first wait for data on, but for the batches that are left out.

    ``rejected`` and ``steps`` (this worker's uids, all workers' mean losses) grow until they are
    reported.
    """

    def __init__(self, device: torch.device, pulse: Pulse):
        self.device, self._pulse = device, pulse
        self.rejected: list[dict[str, str]] = []
        self.steps: list[dict[str, Any]] = []
        self._batch = 0
        self._label = contextlib.ExitStack()
        self._left_out_at: float | None = None
        self._clear(since=time.monotonic())

    def _clear(self, *, since: float) -> None:
        self._steps: list[dict[str, Tensor]] = []
        self._uids: list[tuple[int, list[str]]] = []
        self._num_samples, self._since = 0, since
        self._marks: list[tuple[str, Any]] = [("", self._now())]

    def _now(self) -> Any:
        """A point in time of the device."""
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def enter(self, stage: str) -> None:
        """Note that a stage of the batch begins, and the one before it ends. A trace shows both under its name."""
        self._pulse.enter(stage, batch=self._batch)
        self._label.close()
        self._label.enter_context(record_function(stage))
        self._mark(stage)

    @contextlib.contextmanager
    def inside(self, stage: str) -> Iterator[None]:
        """Time a part of the stage at hand by itself."""
        around = self._marks[-1][0]
        self._mark(stage)
        with record_function(stage):
            yield
        self._mark(around)

    def _mark(self, stage: str) -> None:
        if self._left_out_at is None:
            self._marks.append((stage, self._now()))

    def timed(self, blocks: Iterable[dict[str, Any]], *, first_batch: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """Pass (batch, block) on, noting the time spent waiting for each."""
        iterator = iter(blocks)
        self._clear(since=time.monotonic())
        for self._batch in itertools.count(first_batch):
            self._begin()
            self.enter("data")
            block = next(iterator, None)
            if block is None:
                return
            self.enter("transfer")
            yield self._batch, block

    def _begin(self) -> None:
        """Note where the batch begins, and count time again if the one before it was left out."""
        self._began, self._first_mark = time.monotonic(), len(self._marks)
        if self._left_out_at is not None:
            self._since += self._began - self._left_out_at
            self._left_out_at = None

    def leave_out(self) -> None:
        """Count the time of this batch, from its beginning to its end, in no rate: it trains nothing."""
        self._left_out_at = self._began
        self._marks[self._first_mark :] = [("", self._marks[self._first_mark][1])]

    def note_rejected(self, block: dict[str, Any]) -> None:
        """Keep what the stream could not use, so that the driver can put it on record."""
        for place in np.flatnonzero(~block["ok"] & (block["uid"] != "")):
            self.rejected.append({"uid": str(block["uid"][place]), "reason": str(block["reason"][place])})

    def note_step(self, losses: dict[str, Tensor], block: dict[str, Any]) -> None:
        self._steps.append({name: loss.detach() for name, loss in losses.items()})
        self._uids.append((self._batch, block["uid"][block["ok"]].tolist()))
        self._num_samples += int(block["ok"].sum())

    @property
    def has_steps(self) -> bool:
        """Whether there was a step since the last metric point."""
        return bool(self._steps)

    def take(self) -> dict[str, float]:
        """Means over steps and workers since the last call; every worker must call it, and gets the same numbers.

        Raises:
            LossError: a loss or gradient norm is not finite; the message names the batch and its uids.
        """
        now = time.monotonic() if self._left_out_at is None else self._left_out_at
        elapsed = now - self._since
        names = sorted(self._steps[0])
        steps = torch.stack([torch.stack([step[name].float() for name in names]) for step in self._steps])
        times = self._times()
        own = torch.tensor([self._num_samples, *times.values()], device=self.device)
        summed = torch.cat([steps.flatten(), own])
        dist.all_reduce(summed)
        num_workers = dist.get_world_size()
        means = (summed[: steps.numel()].view_as(steps) / num_workers).cpu()
        if not means.isfinite().all():
            self._refuse(int((~means.isfinite()).any(dim=1).nonzero()[0]), means, names)
        self.steps += [
            {"batch": batch, "uids": uids, **dict(zip(names, values, strict=True))}
            for (batch, uids), values in zip(self._uids, means.tolist(), strict=True)
        ]
        num_samples, *seconds = summed[steps.numel() :].tolist()
        metrics = dict(zip(names, means.mean(dim=0).tolist(), strict=True))
        metrics["samples_per_s"] = num_samples / elapsed
        for stage, spent in zip(times, seconds, strict=True):
            metrics[f"{stage}_s"] = spent / num_workers / len(self._steps)
        metrics["data_wait_share"] = metrics["data_s"] * len(self._steps) / elapsed
        # What the point itself costs is part of the next one's time.
        self._clear(since=now)
        return metrics

    def _times(self) -> dict[str, float]:
        """Seconds in each stage since the last metric point."""
        spent: dict[str, float] = dict.fromkeys(TIMED, 0.0)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        for (stage, begin), (_, end) in itertools.pairwise([*self._marks, ("", self._now())]):
            if stage in spent:
                spent[stage] += begin.elapsed_time(end) / 1000 if self.device.type == "cuda" else end - begin
        return spent

    def _refuse(self, step: int, means: Tensor, names: list[str]) -> None:
        """Name the first step that went wrong, and the videos of all workers in it."""
        batch, own = self._uids[step]
        uids: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(uids, own)
        values = ", ".join(f"{name} {value:g}" for name, value in zip(names, means[step].tolist(), strict=True))
        raise LossError(
            f"training broke down at batch {batch}: {values}; wanted finite numbers. Videos of the batch: "
            f"{' '.join(uid for part in uids for uid in part)}. Lower the learning rate, or look at these videos; "
            "the checkpoints so far are sound"
        )
