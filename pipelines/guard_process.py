"""One decoding process as its parent sees it: ask, wait within limits, and see how it ended."""

import contextlib
import fcntl
import json
import math
import os
import pickle
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

import numpy as np

from pipelines.guard_child import LENGTHS
from pipelines.limits import VideoLimits
from pipelines.quarantine import SampleError

Ranges = Callable[[int, int], bytes]
_START_S = 300.0
_TICK_S = 1.0
_PIPE_BYTES = 1 << 20
_MAX_HEAD_BYTES = 1 << 20
# No password of the parent's environment comes near foreign bytes.
_KEPT_ENV = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "PYTHONHOME", "TMPDIR", "TZ")
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}


class EndedError(Exception):
    """The process is gone. ``why``: a signal's name, an exit code, or the limit that it was killed for."""

    def __init__(self, why: str, *, is_too_slow: bool = False):
        super().__init__(why)
        self.why, self.is_too_slow = why, is_too_slow


class Answer(NamedTuple):
    """``value``: uint8 array, bytes or plain JSON, or why there is none. ``is_last``: the process ends after it."""

    value: Any
    is_last: bool


class GuardProcess:
    """A running ``pipelines.guard_child``, for one thread at a time.

    Raises:
        RuntimeError: it does not start.
    """

    def __init__(self) -> None:
        with _lifeline() as (held, given):
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "pipelines.guard_child", str(given)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                pass_fds=(given,),
                env=_environment(),
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        self._pipes = (self._process.stdin, self._process.stdout, held)
        self.num_served = 0
        try:
            self._greet()
        except BaseException:
            self.close()
            raise

    def _greet(self) -> None:
        for pipe in (self._to, self._from):
            os.set_blocking(pipe, False)
            with contextlib.suppress(OSError):  # a user may have only so many large ones
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._patience = _Patience(self.pid, VideoLimits(max_idle_s=_START_S, max_wait_s=_START_S))
        try:
            self._receive(max_bytes=0)
        except EndedError as error:
            raise RuntimeError(f"the process that decodes videos does not start ({error.why}): see stderr") from None

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def ask(self, function: Callable[[Any], Any], data: bytes | Ranges, *, limits: VideoLimits) -> Answer:
        """Call ``function`` there, with the bytes, or with a function that asks for ranges of them here.

        Raises:
            EndedError: it died, or was killed because it was over a limit of time.
            RuntimeError: the call cannot be made there: a mistake of ours.
        """
        by_range, body = callable(data), b"" if callable(data) else data
        memory_bytes = limits.max_memory_bytes + 2 * len(body)
        self._patience = _Patience(self.pid, limits)
        self._send(pickle.dumps((function, by_range, limits.max_cpu_s, memory_bytes)), body)
        head, answer = self._receive(max_bytes=memory_bytes)
        while head["kind"] == "range" and callable(data):
            with _distrust():
                start, length = int(head["start"]), int(head["length"])
            self._send(b"", data(start, length))
            head, answer = self._receive(max_bytes=memory_bytes)
        self.num_served += 1
        with _distrust():
            return Answer(_value(head, answer), bool(head["is_last"]))

    def close(self) -> None:
        """End the process and wait for its end."""
        self._process.kill()
        self._process.wait()
        for pipe in self._pipes:
            pipe.close()

    def _send(self, head: bytes, body: bytes) -> None:
        for piece in (LENGTHS.pack(len(head), len(body)) + head, body):
            left = memoryview(piece)
            while left:
                try:
                    left = left[os.write(self._to, left) :]
                except BlockingIOError:
                    self._wait(self._to, select.POLLOUT)
                except BrokenPipeError:
                    raise self._end() from None

    def _receive(self, *, max_bytes: int) -> tuple[dict[str, Any], np.ndarray]:
        head_bytes, body_bytes = LENGTHS.unpack(self._take(LENGTHS.size).data)
        if head_bytes > _MAX_HEAD_BYTES or body_bytes > max_bytes:
            self._process.kill()
            raise EndedError(f"an answer of {body_bytes} bytes")
        with _distrust():
            head = dict(json.loads(self._take(head_bytes).tobytes()))
            head["kind"] = str(head["kind"])
        return head, self._take(body_bytes)

    def _take(self, num_bytes: int) -> np.ndarray:
        buffer = np.empty(num_bytes, np.uint8)
        left = buffer.data
        while left:
            try:
                count = os.readv(self._from, [left])
            except BlockingIOError:
                self._wait(self._from, select.POLLIN)
                continue
            if not count:
                raise self._end()
            left = left[count:]
        return buffer

    def _wait(self, pipe: int, event: int) -> None:
        poll = select.poll()
        poll.register(pipe, event)
        while not poll.poll(_TICK_S * 1000):
            if why := self._patience.end():
                self._process.kill()
                raise EndedError(why, is_too_slow=True)

    def _end(self) -> EndedError:
        """How the process ended, whose pipes are closed."""
        try:
            code = self._process.wait(timeout=_START_S)
        except subprocess.TimeoutExpired:
            return EndedError("it closed its pipes")
        if code == -signal.SIGXCPU:
            return EndedError("over its limit of CPU time", is_too_slow=True)
        return EndedError(signal.Signals(-code).name if code < 0 else f"exit code {code}")


class _Patience:
    """Whether a process has used up its time, asked every ``_TICK_S``."""

    def __init__(self, pid: int, limits: VideoLimits):
        self._pid, self._limits = pid, limits
        self._start_s, self._cpu_ticks, self._num_idle = time.monotonic(), -1, 0

    def end(self) -> str:
        """Why it has to end, or ""."""
        cpu_ticks = _cpu_ticks(self._pid)
        self._num_idle = self._num_idle + 1 if cpu_ticks == self._cpu_ticks else 0
        self._cpu_ticks = cpu_ticks
        if self._num_idle >= math.ceil(self._limits.max_idle_s / _TICK_S):
            return f"took no CPU time for {self._limits.max_idle_s:g} s"
        if time.monotonic() - self._start_s > self._limits.max_wait_s:
            return f"took {self._limits.max_wait_s:g} s by the clock on the wall"
        return ""


def _cpu_ticks(pid: int) -> int:
    """CPU time of all threads of a process."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return int(fields[11]) + int(fields[12])


@contextlib.contextmanager
def _lifeline() -> Iterator[tuple[IO[bytes], int]]:
    """A pipe whose one end is held here, and dies with this process; the other one is for a child to inherit."""
    given, held = os.pipe()
    file = os.fdopen(held, "wb", buffering=0)
    try:
        yield file, given
    except BaseException:
        file.close()
        raise
    finally:
        os.close(given)


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT_ENV if name in os.environ}
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    return kept | _ONE_THREAD | {"PYTHONPATH": path}


@contextlib.contextmanager
def _distrust() -> Iterator[None]:
    """An answer that is none counts as the end of the process that gave it."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AssertionError) as error:
        raise EndedError(f"an answer that is none: {type(error).__name__}") from error


def _value(head: dict[str, Any], body: np.ndarray) -> Any:
    kind = head["kind"]
    if kind == "array":
        return body.reshape(head["shape"])
    if kind == "bytes":
        return body.tobytes()
    if kind == "rejection":
        return SampleError(head["code"], head["detail"])
    if kind == "fault":
        raise RuntimeError(f"a call cannot be made in the process that decodes videos:\n{head['text']}")
    return head["value"]
