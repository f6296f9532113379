"""A long stream as segments, one after another, dealt to several workers.

Ray Data executes a stream in one process, and that process remembers something of every block: the statistics of each
until the stream ends, and an entry in Ray's table of objects until the process does. So a segment is a stream of its
own, which a process of its own executes.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import ray
import ray.data
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines import STREAM_ENV

PREFETCHED_BLOCKS = 2

MakeSegment = Callable[[int], ray.data.Dataset]
"""A segment's number -> its blocks, in order."""


class Share:
    """What one worker receives: iterating over it gives its blocks, as columns."""

    def __init__(self, segments: Any, rank: int):
        self._segments, self._rank = segments, rank

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number in itertools.count():
            part: Any = ray.get(self._segments.part.remote(number, self._rank))
            if part is None:
                return
            yield from part.iter_batches(batch_size=None, prefetch_batches=PREFETCHED_BLOCKS)


@contextlib.contextmanager
def deal(make: MakeSegment, *, num_segments: int, num_workers: int) -> Iterator[list[Share]]:
    """Deal the blocks of all segments to ``num_workers`` in turn -> what each receives.

    All of them must work through what they receive: a segment begins when the last worker has come to it. Whatever
    still works on the stream ends with the context.
    """
    # The executing processes come to the node of the one that makes them, and take its environment; this one may not
    # be taken away.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    env = {"env_vars": STREAM_ENV}
    segments: Any = _Segments.options(scheduling_strategy=here, runtime_env=env).remote(make, num_segments, num_workers)
    try:
        yield [Share(segments, rank) for rank in range(num_workers)]
    finally:
        # What it has started ends with it.
        ray.kill(segments)


@ray.remote(num_cpus=0)
class _Segments:
    """Makes the segments as the workers come to them."""

    def __init__(self, make: MakeSegment, num_segments: int, num_workers: int):
        self._make, self._num_segments, self._num_workers = make, num_segments, num_workers
        self._parts: dict[int, list[ray.data.DataIterator]] = {}

    def part(self, number: int, rank: int) -> ray.data.DataIterator | None:
        """A worker's part of a segment, None after the last one."""
        # Who asks for a segment has been through the one before, which begins only when all have their parts of it.
        self._parts.pop(number - 1, None)
        # The process that will execute the next segment takes seconds to start: it starts now.
        for each in range(number, min(number + 2, self._num_segments)):
            if each not in self._parts:
                self._parts[each] = self._make(each).streaming_split(self._num_workers, equal=True)
        return self._parts[number][rank] if number < self._num_segments else None
