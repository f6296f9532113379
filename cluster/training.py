"""A training from its first step to its last: one worker group after another, each as large as the cluster allows."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import ray
from ray.train import TrainingFailedError

from cluster.checkpoints import Checkpoint
from cluster.group import OnReport, run_group
from cluster.meter import LossError
from cluster.placement import Placement
from cluster.reports import kept_reports
from cluster.session import asking_for_nodes, node_resources, wait_for_room
from cluster.task import TrainTask

logger = logging.getLogger(__name__)

MakeStream = Callable[[int, int], AbstractContextManager[Sequence[Iterable[dict[str, Any]]]]]
"""(first batch, number of workers) -> what each worker receives: a block of every batch from there on."""
RESTART_S = 120.0
"""How long a cluster that has become too small gets to grow again, at least."""

COUNT_S = 5.0
"""Between two looks whether a group leaves CPUs for decoding."""


class StoppedError(Exception):
    """The training was asked to stop, and has saved a checkpoint."""


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
    for then; a group that could be larger is asked to save and stop, and is followed by a larger one.

    ``on_report`` may get a report twice.

    Raises:
        ValueError: the cluster cannot serve the placement.
        StoppedError: ``should_stop`` told to.
        RuntimeError: groups failed more often in a row than the placement allows, or would again.
    """
    placement, use_gpu = task.placement, uses_gpus(task.placement)
    failures, enough, wait_s = 0, placement.num_workers, placement.wait_for_nodes_s
    newest = _take_up(task, on_report)
    with asking_for_nodes(placement, use_gpu=use_gpu):
        while not _is_done(task, newest):
            num_workers = wait_for_room(placement, use_gpu=use_gpu, enough=enough, wait_s=wait_s)
            if num_workers < placement.num_workers:
                logger.warning("there is room for %d of %d workers", num_workers, placement.num_workers)
            error = _run_group(
                task,
                make_stream,
                newest,
                num_workers=num_workers,
                use_gpu=use_gpu,
                on_report=on_report,
                should_stop=should_stop,
            )
            before, newest = newest, _take_up(task, on_report)
            if _is_done(task, newest):
                return
            if should_stop():
                raise StoppedError
            if error:
                failures = 1 if newest != before else failures + 1
                _judge(error, failures=failures, placement=placement)
            step = task.schedule.steps_before(newest.batch) if newest else 0
            logger.warning("training goes on from step %d with another worker group", step)
            enough, wait_s = placement.fewest_workers, max(RESTART_S, placement.wait_for_nodes_s)


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
    num_workers: int,
    use_gpu: bool,
    on_report: OnReport,
    should_stop: Callable[[], bool],
) -> TrainingFailedError | None:
    """Train with one group until it ends, is to stop, or could be larger -> why it failed, if it did."""
    room = _Room(task.placement, num_workers=num_workers, use_gpu=use_gpu)
    with make_stream(newest.batch if newest else 0, num_workers) as shares:
        try:
            run_group(
                task,
                shares,
                newest,
                use_gpu=use_gpu,
                on_report=on_report,
                should_stop=lambda: should_stop() or room.is_larger(),
                is_starved=room.is_starved,
            )
        except TrainingFailedError as error:
            return error
    return None


def _judge(error: TrainingFailedError, *, failures: int, placement: Placement) -> None:
    """Tell why a group failed; raise when another one would not help."""
    causes = {rank: getattr(cause, "_base_exc", cause) for rank, cause in getattr(error, "worker_failures", {}).items()}
    for rank, cause in sorted(causes.items()):
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


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


class _Room:
    """The cluster around a group while it works, looked at from time to time."""

    def __init__(self, placement: Placement, *, num_workers: int, use_gpu: bool):
        self._placement, self._num_workers, self._use_gpu = placement, num_workers, use_gpu
        self._next = time.monotonic() + placement.grow_after_s
        self._next_count = 0.0

    def is_larger(self) -> bool:
        """Whether the group could be larger than it is."""
        if self._num_workers == self._placement.num_workers or time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + self._placement.grow_after_s
        return self._placement.room(node_resources(), use_gpu=self._use_gpu) > self._num_workers

    def is_starved(self) -> bool:
        """Whether the workers hold every CPU, so that nothing is decoded: a node that is lost counts as room until the
        cluster notices, and a group that was started meanwhile takes what the others had left for decoding."""
        if time.monotonic() < self._next_count:
            return False
        self._next_count = time.monotonic() + COUNT_S
        cpus = sum(node.get("CPU", 0) for node in node_resources())
        return cpus - self._num_workers * self._placement.cpus_per_worker < 1
