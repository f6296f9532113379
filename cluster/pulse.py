"""Signs of life from the workers to the driver, and back the driver's wish that they stop.

Every worker tells the driver's board once a second which batch it is at, in which stage of it, and for how long. From
that the driver sees a worker that hangs, which to Ray is alive: its neighbours wait for it in a collective.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import ray
import ray.exceptions
import torch
import torch.distributed as dist
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

logger = logging.getLogger(__name__)

BEAT_S = 1.0
STAGES = ("start", "data", "transfer", "forward", "backward", "optimizer", "validation", "checkpoint")
"""In the order in which a batch goes through them."""


class Beat(NamedTuple):
    """What a worker does: ``stage`` of ``batch`` for ``lasting_s`` seconds; ``actor`` is its handle."""

    batch: int
    stage: str
    lasting_s: float
    where: str
    actor: Any


class _Board:
    """The actor between the driver and its workers."""

    def __init__(self) -> None:
        self._beats: dict[int, tuple[float, Beat]] = {}
        self._stop = False

    def beat(self, rank: int, beat: Beat) -> bool:
        """Take a sign of life -> whether the worker should stop."""
        self._beats[rank] = (time.monotonic(), beat)
        return self._stop

    def read(self) -> dict[int, tuple[float, Beat]]:
        """Rank -> seconds since its last sign of life, and that sign."""
        return {rank: (time.monotonic() - at, beat) for rank, (at, beat) in self._beats.items()}

    def ask_to_stop(self) -> None:
        self._stop = True


@contextlib.contextmanager
def open_board() -> Iterator[Any]:
    """A board for one worker group, on the driver's node: another node may be taken away."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board: Any = ray.remote(_Board).options(num_cpus=0, scheduling_strategy=here).remote()
    try:
        yield board
    finally:
        ray.kill(board)


def hanging(beats: Mapping[int, tuple[float, Beat]], *, bound_s: float) -> dict[int, str]:
    """Ranks that hold the group up, and what each is at: those least far on, once one has stood still for too long."""
    still = {rank: silent_s + beat.lasting_s for rank, (silent_s, beat) in beats.items()}
    if not still or max(still.values()) < bound_s:
        return {}
    progress = {rank: (beat.batch, STAGES.index(beat.stage)) for rank, (_, beat) in beats.items()}
    behind = min(progress.values())
    return {
        rank: f"worker {rank} ({beat.where}) stands at the {beat.stage} of batch {beat.batch} since {still[rank]:.0f} s"
        + (f", silent for {silent_s:.0f} s" if silent_s > 10 * BEAT_S else "")
        for rank, (silent_s, beat) in sorted(beats.items())
        if progress[rank] == behind
    }


class Pulse:
    """One worker's side: a thread tells where the worker is, and hears whether it should stop."""

    def __init__(self, board: Any, rank: int):
        self.should_stop: bool = False
        self._board, self._rank = board, rank
        self._at = (0, "start", time.monotonic())
        context = ray.get_runtime_context()
        self._where = f"pid {os.getpid()} on {ray.util.get_node_ip_address()}"
        self._actor = context.current_actor
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)
        self._thread.start()

    def enter(self, stage: str, *, batch: int) -> None:
        """Note the stage that begins."""
        self._at = (batch, stage, time.monotonic())

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(BEAT_S):
            batch, stage, since = self._at
            beat = Beat(batch, stage, time.monotonic() - since, self._where, self._actor)
            try:
                answer: Any = ray.get(self._board.beat.remote(self._rank, beat), timeout=10 * BEAT_S)
                self.should_stop = answer
            except ray.exceptions.RayError as error:
                # The driver's node does not answer: gone, Ray ends this process; slow, it may recover.
                logger.debug("no answer to a sign of life: %s", type(error).__name__)


class Vote:
    """Whether any worker has a wish, such as to stop; known to all at the same batch.

    The votes of a batch are counted while the next one is computed, so that nobody waits for them.
    """

    def __init__(self, num_wishes: int) -> None:
        # A group of its own: the count must neither wait for nor disturb the training's collectives.
        self._group: Any = dist.new_group(backend="gloo")
        self._count = torch.zeros(num_wishes)
        self._under_way: Any = None

    def cast(self, *wishes: bool) -> list[bool]:
        """Cast a vote for each wish -> whether anyone voted for it the last time; every worker must call it once a
        batch."""
        if self._under_way is not None:
            self._under_way.wait()
        wished = self._count.bool().tolist()
        self._count = torch.tensor(wishes, dtype=torch.float32)
        self._under_way = dist.all_reduce(self._count, group=self._group, async_op=True)
        return wished


@contextlib.contextmanager
def pulse(board: Any, rank: int) -> Iterator[Pulse]:
    """A pulse for the time of the context."""
    beating = Pulse(board, rank)
    try:
        yield beating
    finally:
        beating.close()
