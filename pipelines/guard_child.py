"""The process in which foreign bytes are decoded: one call after the other, until its parent is gone.

A message, in both directions, is the lengths of its head and its body, the head and the body. Heads to this process are
pickles of our own making; what comes from here is JSON and plain bytes, for nothing that has touched foreign bytes is
to be trusted.
"""

import fcntl
import functools
import json
import math
import os
import pickle
import resource
import signal
import struct
import sys
import traceback
from collections.abc import Callable
from typing import IO, Any, NamedTuple

import numpy as np

from pipelines import decode, probe, transcode
from pipelines.quarantine import SampleError

LENGTHS = struct.Struct("<IQ")
PRELOADED = (decode, probe, transcode)
"""Not loaded with the first sample: its limits are to hold for the sample alone."""
_MAX_GROWTH = 512 << 20
_MAX_DETAIL = 1000


class Call(NamedTuple):
    """``function`` gets the body of the message, or if ``by_range`` a function (start, length) -> bytes."""

    function: Callable[[Any], Any]
    by_range: bool
    max_cpu_s: float
    max_memory_bytes: int


def main() -> None:
    """Serve the parent at the other end of stdin and stdout. Argument: a pipe of which it holds the other end, too."""
    _die_with_the_holder_of(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    calls, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    # Whatever a library prints goes where errors go.
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    _send(answers, {"kind": "ready"})
    base = _address_space()
    is_last = False
    while not is_last and (lengths := calls.read(LENGTHS.size)):
        head_bytes, body_bytes = LENGTHS.unpack(lengths)
        head, body = calls.read(head_bytes), calls.read(body_bytes)
        answer, answer_body = _serve(head, body, functools.partial(_ask_parent, calls, answers))
        del body
        # What a decoder does not give back would be missing in the end: a new process is cheap.
        is_last = _address_space() > base + _MAX_GROWTH
        _send(answers, answer | {"is_last": is_last}, answer_body)


def _die_with_the_holder_of(pipe: int) -> None:
    """Let the kernel kill this process, whatever it is doing, once nobody holds the other end of the pipe.

    ``PR_SET_PDEATHSIG`` would do so at the end of the thread that started it.
    """
    fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | fcntl.FASYNC)


def _serve(head: bytes, body: bytes, ask_parent: Callable[[int, int], bytes]) -> tuple[dict[str, Any], Any]:
    """Head and body of the answer. An error of our own is a ``fault``, what goes wrong in the call is the sample's."""
    try:
        call = Call(*pickle.loads(head))  # noqa: S301  # made by the parent
    except Exception:
        return {"kind": "fault", "text": traceback.format_exc()}, b""
    try:
        _limit(call.max_cpu_s, call.max_memory_bytes)
        result = call.function(ask_parent if call.by_range else body)
    except SampleError as error:
        return _rejection(error), b""
    except MemoryError:
        wanted = f"decoding wanted more than {call.max_memory_bytes >> 20} MiB"
        return _rejection(SampleError("too_large", wanted)), b""
    except Exception as error:
        return _rejection(SampleError("decoder_crashed", f"{type(error).__name__}: {error}")), b""
    finally:
        _lift_limits()
    if isinstance(result, np.ndarray):
        assert result.dtype == np.uint8, result.dtype
        return {"kind": "array", "shape": result.shape}, np.ascontiguousarray(result).reshape(-1)
    if isinstance(result, bytes):
        return {"kind": "bytes"}, result
    return {"kind": "value", "value": result}, b""


def _limit(max_cpu_s: float, max_memory_bytes: int) -> None:
    """Let this process use so much more than it has used. The hard limits stay, so that the next call has its own."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _set_soft(resource.RLIMIT_CPU, math.ceil(usage.ru_utime + usage.ru_stime + max_cpu_s))
    _set_soft(resource.RLIMIT_AS, _address_space() + max_memory_bytes)


def _lift_limits() -> None:
    for kind in (resource.RLIMIT_CPU, resource.RLIMIT_AS):
        _set_soft(kind, resource.RLIM_INFINITY)


def _set_soft(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    bounds = [bound for bound in (value, hard) if bound != resource.RLIM_INFINITY]
    resource.setrlimit(kind, (min(bounds, default=resource.RLIM_INFINITY), hard))


def _address_space() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _rejection(error: SampleError) -> dict[str, Any]:
    return {"kind": "rejection", "code": error.code, "detail": error.detail[:_MAX_DETAIL]}


def _ask_parent(calls: IO[bytes], answers: IO[bytes], start: int, length: int) -> bytes:
    _send(answers, {"kind": "range", "start": start, "length": length})
    _, num_bytes = LENGTHS.unpack(calls.read(LENGTHS.size))
    return calls.read(num_bytes)


def _send(answers: IO[bytes], head: dict[str, Any], body: Any = b"") -> None:
    text = json.dumps(head).encode()
    for piece in (LENGTHS.pack(len(text), len(body)), text, body):
        left = memoryview(piece)
        while left:
            left = left[answers.write(left) :]


if __name__ == "__main__":
    main()
