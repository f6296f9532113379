"""Call a function for many items at the same time, and take the results in the order of the items.

Only so many calls are made ahead as keep everybody busy: results that wait for their turn are held in memory.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import ray

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
_AHEAD = 4


def map_on_threads(
    function: Callable[[ItemT], ResultT], items: Iterable[ItemT], *, num_threads: int, num_ahead: int = 0
) -> Generator[ResultT, None, None]:
    """On threads of this process, ``num_ahead`` calls ahead: by default four a thread, fewer for large results."""
    with ThreadPoolExecutor(num_threads) as pool:
        try:
            yield from _in_turn(
                lambda item: pool.submit(function, item),
                items,
                lambda future: future.result(),
                num_ahead=num_ahead or _AHEAD * num_threads,
            )
        finally:
            pool.shutdown(cancel_futures=True)


def map_on_ray(
    function: Callable[[ItemT], ResultT], items: Iterable[ItemT], *, num_tasks: int
) -> Generator[ResultT, None, None]:
    """On the Ray cluster that this process has joined, with one CPU for each task, ``num_tasks`` at the same time."""
    remote = ray.remote(num_cpus=1)(_call)
    reference = ray.put(function)
    return _in_turn(lambda item: remote.remote(reference, item), items, ray.get, num_ahead=num_tasks)


def _call(function: Callable[[ItemT], ResultT], item: ItemT) -> ResultT:
    return function(item)


def _in_turn(
    submit: Callable[[ItemT], Any], items: Iterable[ItemT], result: Callable[[Any], ResultT], *, num_ahead: int
) -> Generator[ResultT, None, None]:
    waiting: deque[Any] = deque()
    for item in items:
        waiting.append(submit(item))
        if len(waiting) >= num_ahead:
            yield result(waiting.popleft())
    while waiting:
        yield result(waiting.popleft())
