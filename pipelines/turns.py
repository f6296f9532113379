"""A bound on how far a Ray Data stream runs ahead of what is finished.

Ray Data lets a stage run ahead until the object store is full, and a kill takes all of that along. Here the items of a
stream are numbered, and a stage in front of the expensive ones holds each back until its turn has come.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import ray
import ray.data
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


class Turns:
    """Which items of one stream may go on: those with numbers below a limit that only rises."""

    def __init__(self, door: Any) -> None:
        self._door = door

    def allow(self, stop: int) -> None:
        """Let the items below ``stop`` go on."""
        self._door.allow.remote(stop)

    def hold_back(self, dataset: "ray.data.Dataset") -> "ray.data.Dataset":
        """The same one-row blocks, each from when its number (column ``id``) has its turn. They come in order."""
        # Waiting takes no CPU, and one task at a time is enough: the others come after it.
        return dataset.map_batches(
            _wait_for_turn,  # pyright: ignore[reportArgumentType]  # Ray does not declare keyword arguments
            batch_size=1,
            num_cpus=0,
            compute=ray.data.TaskPoolStrategy(size=1),
            fn_kwargs={"door": self._door},
        )


@contextlib.contextmanager
def take_turns() -> Iterator[Turns]:
    """Turns for one stream; nothing may work on it any more when the context ends."""
    # With the driver's node the stream is lost in any case.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    door: Any = _Door.options(scheduling_strategy=here).remote()
    try:
        yield Turns(door)
    finally:
        ray.kill(door)


@ray.remote(num_cpus=0)
class _Door:
    def __init__(self) -> None:
        self._stop, self._moved = 0, asyncio.Condition()

    async def allow(self, stop: int) -> None:
        async with self._moved:
            self._stop = max(stop, self._stop)
            self._moved.notify_all()

    async def wait(self, number: int) -> None:
        async with self._moved:
            await self._moved.wait_for(lambda: number < self._stop)


def _wait_for_turn(batch: dict[str, np.ndarray], *, door: Any) -> dict[str, np.ndarray]:
    ray.get(door.wait.remote(int(batch["id"][0])))
    return batch
