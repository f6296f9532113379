"""Run what touches foreign bytes in a process of its own: a crash, a hang or a giant allocation costs that sample.

Each process that decodes has a small child (``guard_child``), which is started at the first call and kept; threads that
decode at the same time have one each.
"""

import os
import threading
from collections.abc import Callable
from typing import Any

from pipelines.guard_process import EndedError, GuardProcess, Ranges
from pipelines.limits import VideoLimits
from pipelines.quarantine import SampleError

# Signals that a program gets for what it did itself. Others may come from outside: a stop, the OOM killer.
_OWN_SIGNALS = ("SIGSEGV", "SIGABRT", "SIGFPE", "SIGILL", "SIGBUS", "SIGSYS", "SIGTRAP")


def run_guarded(function: Callable[[Any], Any], data: bytes | Ranges, *, limits: VideoLimits = VideoLimits()) -> Any:
    """``function(data)``, called in a child process that can be lost.

    The function can be pickled and gives a uint8 array, bytes or what JSON can hold. In place of bytes ``data`` may be
    a function (start, length) -> bytes; the child's calls of it are made here.

    A child that dies by what may be a signal from outside, or after it has served other samples (whose damage it may
    carry), is replaced once, and the sample tried again.

    Raises:
        SampleError: that of the function; ``decoder_crashed`` also for an exception of any other kind, ``too_slow``,
            and ``too_large`` for what asks for too much memory.
        RuntimeError: no child starts, or the function cannot be loaded there.
    """
    is_retry = False
    while True:
        child = _children.take()
        is_fresh = child.num_served == 0
        try:
            value, is_last = child.ask(function, data, limits=limits)
        except EndedError as error:
            child.close()
            if error.is_too_slow:
                raise SampleError("too_slow", error.why) from None
            if is_retry or (is_fresh and error.why in _OWN_SIGNALS):
                raise SampleError("decoder_crashed", error.why) from None
            is_retry = True
            continue
        except BaseException:
            # It is in the middle of something that nobody waits for.
            child.close()
            raise
        if is_last:
            child.close()
        else:
            _children.put_back(child)
        if isinstance(value, SampleError):
            raise value
        return value


class _Children:
    """The idle children of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[GuardProcess] = []
        self._owner = os.getpid()

    def take(self) -> GuardProcess:
        """An idle child, or a new one."""
        while child := self._pop():
            if child.is_running:
                return child
            child.close()
        try:
            return GuardProcess()
        except RuntimeError:
            return GuardProcess()  # the first one may have been killed from outside

    def put_back(self, child: GuardProcess) -> None:
        with self._lock:
            self._idle.append(child)

    def _pop(self) -> GuardProcess | None:
        with self._lock:
            if self._owner != os.getpid():
                # A fork: the children belong to the process that it is a copy of.
                self._owner, self._idle = os.getpid(), []
            return self._idle.pop() if self._idle else None


_children = _Children()
