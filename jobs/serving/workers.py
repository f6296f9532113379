"""Threads for work that would stop an event loop, with a bound on what waits for them."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from jobs.serving.errors import busy, too_slow

ResultT = TypeVar("ResultT")


class Workers:
    """``num_threads`` threads for one kind of work, ``what`` in errors."""

    def __init__(self, what: str, *, num_threads: int, max_pending: int, timeout_s: float):
        self._what, self._max_pending, self._timeout_s = what, max_pending, timeout_s
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix=what.replace(" ", "-"))
        self._pending = 0

    async def run(self, function: Callable[..., ResultT], *args: Any) -> ResultT:
        """``function(*args)`` in a thread.

        Raises:
            ApiError: too many calls wait, or this one takes too long. What runs already then runs to its end and
                counts until it is there.
        """
        if self._pending >= self._max_pending:
            raise busy(self._what, self._pending)
        loop = asyncio.get_running_loop()
        self._pending += 1
        future = self._pool.submit(function, *args)
        future.add_done_callback(lambda done: self._note_end(loop, done))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self._timeout_s)
        except TimeoutError:
            if not future.cancelled() and future.done():
                raise  # the function's own
            raise too_slow(self._what, self._timeout_s) from None

    def _note_end(self, loop: asyncio.AbstractEventLoop, _: "Future[Any]") -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._count_down)

    def _count_down(self) -> None:
        self._pending -= 1
