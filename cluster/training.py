"""A training from its first step to its last: one worker group after another, each as large as the cluster allows."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import ray
from ray.train import ControllerError, TrainingFailedError
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

from cluster.checkpoints import Checkpoint
from cluster.group import OnReport, run_group
from cluster.meter import LossError
from cluster.placement import Placement
from cluster.reports import kept_reports
from cluster.session import asking_for_nodes, node_resources, spare_resources, wait_for_room
from cluster.task import TrainTask

logger = logging.getLogger(__name__)

MakeStream = Callable[[int, int], AbstractContextManager[Sequence[Iterable[dict[str, Any]]]]]
"""(first batch, number of workers) -> what each worker receives: a block of every batch from there on."""
RESTART_S = 120.0
"""How long a cluster that has become too small, or has no place for a group, gets to grow again, at least."""

COUNT_S = 5.0
"""Between two looks whether a group leaves CPUs for decoding."""


class StoppedError(Exception):
    """The training was asked to stop, and what it did is saved."""


def uses_gpus(placement: Placement) -> bool:
    """Whether the workers compute on GPUs: asked for, or ``auto`` and the cluster has one for each."""
    if placement.device == "auto":
        return ray.cluster_resources().get("GPU", 0) >= placement.fewest_workers
    return placement.device == "cuda"


def run_training(
    task: TrainTask, make_stream: MakeStream, *, on_report: OnReport, should_stop: Callable[[], bool]
) -> None:
    """Train until the schedule is done.

    A group that fails is followed by another from the newest complete checkpoint, of as many workers as there is room
    for then; a group that could be larger is asked to save and stop, and is followed by a larger one. A group that gets
    no place in the cluster has not failed: it is tried again, smaller where that will do.

    ``on_report`` may get a report twice.

    Raises:
        ValueError: the cluster cannot serve the placement, and nothing was started.
        StoppedError: ``should_stop`` told to.
        RuntimeError: groups failed more often in a row than the placement allows, or would again; the last checkpoint
            was not saved; the cluster has become too small, or has no place for a group.
    """
    room = _Room(task.placement, use_gpu=uses_gpus(task.placement), should_stop=should_stop)
    failures, newest = 0, _take_up(task, on_report)
    with asking_for_nodes(task.placement, use_gpu=room.use_gpu):
        while not _is_done(task, newest):
            error = _run_group(task, make_stream, newest, room=room, on_report=on_report, should_stop=should_stop)
            if error and room.is_refused(error):
                continue
            room.keep()
            before, newest = newest, _take_up(task, on_report)
            if _is_done(task, newest):
                return
            step = task.schedule.steps_before(newest.batch) if newest else 0
            if error:
                failures = 1 if newest != before else failures + 1
                _judge(error, failures=failures, placement=task.placement)
            if should_stop():
                _require_saved(error, step=step)
                raise StoppedError
            logger.warning("training goes on from step %d with another worker group", step)


def _take_up(task: TrainTask, on_report: OnReport) -> Checkpoint | None:
    """The newest complete checkpoint. What was told before it is told again: some of it may have died on its way."""
    newest = task.checkpoints.newest_complete()
    try:
        for report in kept_reports(task.checkpoints, newest) if newest else ():
            on_report(report)
    except Exception:
        # As while a group works: reports are not worth the training.
        logger.exception("reports before batch %s were not taken up", newest and newest.batch)
    return newest


def _is_done(task: TrainTask, newest: Checkpoint | None) -> bool:
    return newest is not None and newest.batch == task.schedule.num_batches


def _run_group(
    task: TrainTask,
    make_stream: MakeStream,
    newest: Checkpoint | None,
    *,
    room: "_Room",
    on_report: OnReport,
    should_stop: Callable[[], bool],
) -> TrainingFailedError | None:
    """Train with one group, as large as there is room for, until it ends, is to stop, or could be larger -> why it
    failed, if it did."""
    num_workers = room.find()
    with make_stream(newest.batch if newest else 0, num_workers) as shares:
        try:
            run_group(
                task,
                shares,
                newest,
                use_gpu=room.use_gpu,
                on_report=on_report,
                should_stop=should_stop,
                is_outgrown=room.is_larger,
                is_starved=room.is_starved,
            )
        except TrainingFailedError as error:
            return error
    return None


def _judge(error: TrainingFailedError, *, failures: int, placement: Placement) -> None:
    """Tell why a group failed; raise when another one would not help."""
    causes = _causes(error)
    for rank, cause in causes.items():
        logger.warning("worker %d failed: %s", rank, _last_line(cause))
    if not causes:
        logger.warning("the worker group failed: %s", _last_line(error))
    for cause in causes.values():
        if isinstance(cause, LossError):
            raise RuntimeError(str(cause)) from error
    if failures > placement.max_failures:
        raise RuntimeError(
            f"the training failed {failures} times in a row without a checkpoint in between "
            f"(max_failures={placement.max_failures}); the same command goes on from the newest one"
        ) from error


def _require_saved(error: TrainingFailedError | None, *, step: int) -> None:
    """Raise if the group that was asked to stop failed, and with it what it would have saved."""
    if error:
        cause = next(iter(_causes(error).values()), error)
        raise RuntimeError(
            f"the training was asked to stop, and failed before its last checkpoint was saved: {_last_line(cause)}; "
            f"the same command goes on from step {step}"
        ) from error


def _causes(error: TrainingFailedError) -> dict[int, BaseException]:
    """What the workers raised, by rank."""
    failures = getattr(error, "worker_failures", {})
    return {rank: getattr(cause, "_base_exc", cause) for rank, cause in sorted(failures.items())}


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


class _Room:
    """The cluster around a training: the room for each group before it, and for a larger one while it works."""

    def __init__(self, placement: Placement, *, use_gpu: bool, should_stop: Callable[[], bool]):
        self.use_gpu = use_gpu
        self._placement, self._should_stop = placement, should_stop
        self._num_workers, self._most = 0, math.inf
        self._wait_s, self._restart_s = placement.wait_for_nodes_s, max(RESTART_S, placement.wait_for_nodes_s)
        self._give_up_at = math.inf
        self._pause_s = placement.grow_after_s
        self._makes_way, self._outgrown = False, 0
        self._began = self._next_look = self._next_count = 0.0

    def find(self) -> int:
        """Wait for room -> how many workers the next group has.

        Raises:
            ValueError: there is none, and nothing was started yet.
            RuntimeError: there is none any more.
            StoppedError: there is no need for it.
        """
        placement, should_stop = self._placement, self._should_stop
        if self._outgrown:
            # What the smaller group had comes back within moments, on a busy node later.
            enough = int(min(self._outgrown + 1, self._most))
        else:
            enough = placement.fewest_workers if self._num_workers else placement.num_workers
        try:
            found = wait_for_room(
                placement, use_gpu=self.use_gpu, enough=enough, wait_s=self._wait_s, should_stop=should_stop
            )
        except ValueError as error:
            if not self._num_workers:
                raise
            raise RuntimeError(f"{error}; the same command then goes on from the newest checkpoint") from error
        if should_stop():
            raise StoppedError
        self._num_workers = int(min(found, self._most))
        if self._num_workers < placement.num_workers:
            logger.warning("there is room for %d of %d workers", self._num_workers, placement.num_workers)
        if self._num_workers <= self._outgrown:
            # The restart was in vain: the next one may wait.
            self._pause_s, self._outgrown = 2 * self._pause_s, 0
        self._began = time.monotonic()
        self._next_look = self._began + self._pause_s
        return self._num_workers

    def is_refused(self, error: TrainingFailedError) -> bool:
        """Whether a group failed because the cluster had no place for it after all: it never began.

        Raises:
            RuntimeError: that is so for too long.
        """
        failure = error.controller_failure if isinstance(error, ControllerError) else None
        if not isinstance(failure, WorkerGroupStartupTimeoutError):
            return False
        why = f"the cluster has no place for {self._num_workers} workers, though there seemed to be room: {failure}"
        self._give_up_at = min(self._give_up_at, self._began + self._restart_s)
        self._wait_s = self._give_up_at - time.monotonic()
        if self._wait_s <= 0 and not self._should_stop():
            raise RuntimeError(
                f"{why} Another job may be quicker, or a node be lost: wait for it, give more time than "
                f"{self._restart_s:g} s with --placement.wait-for-nodes-s, or ask for fewer or smaller workers, with "
                "the same command again"
            ) from error
        logger.warning("%s", why)
        self._most = max(self._placement.fewest_workers, self._num_workers - 1)
        return True

    def keep(self) -> None:
        """Note that the group had its place, now that it is over."""
        if 0 < self._outgrown < self._num_workers:
            self._pause_s, self._outgrown = self._placement.grow_after_s, 0
        if self._makes_way:
            self._makes_way, self._outgrown = False, self._num_workers
        self._give_up_at, self._wait_s, self._most = math.inf, self._restart_s, math.inf

    def is_larger(self) -> bool:
        """Whether the group could be larger than it is; if so it is to make way."""
        if self._num_workers == self._placement.num_workers or time.monotonic() < self._next_look:
            return False
        self._next_look = time.monotonic() + self._pause_s
        self._makes_way = self._placement.room(spare_resources(), use_gpu=self.use_gpu) > 0
        return self._makes_way

    def is_starved(self) -> bool:
        """Whether the workers hold every CPU, so that nothing is decoded: a node that is lost counts as room until the
        cluster notices, and a group that was started meanwhile takes what the others had left for decoding."""
        if time.monotonic() < self._next_count:
            return False
        self._next_count = time.monotonic() + COUNT_S
        cpus = sum(node.get("CPU", 0) for node in node_resources())
        return cpus - self._num_workers * self._placement.cpus_per_worker < 1
