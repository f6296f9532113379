"""What a decoder does at its worst, for a guarded child to run. Apart from the tests, so that it loads quickly."""

import contextlib
import mmap
import os
import re
import signal
import sys
import time
from pathlib import Path

import numpy as np

from pipelines.guard_child import LENGTHS
from pipelines.quarantine import SampleError

_LEAKS = []


def pid(_):
    return os.getpid()


def frames(data):
    return np.frombuffer(data, np.uint8).reshape(2, -1)


def backwards(data):
    return data[::-1]


def chatter(_):
    os.write(1, b"a library prints\n")
    print("and so does Python")
    return "said"


def reject(_):
    raise SampleError("no_frames", "none at all")


def blunder(_):
    return {}["what nobody foresaw"]


def die(data, *, log, name, times=99):
    """Die by a signal, so many times: ``log`` counts the calls."""
    with open(log, "a") as file:
        file.write("x")
    if len(Path(log).read_text()) <= times:
        os.kill(os.getpid(), signal.Signals[name])
        time.sleep(60)
    return data


def leave(_, *, code):
    os._exit(code)


def spin(_, *, cpu_s):
    start = time.process_time()
    while time.process_time() - start < cpu_s:
        pass
    return os.getpid()


def spin_in_c(_):
    """Minutes in the regular expression engine, which lets no other thread run."""
    re.match(r"(a+)+$", "a" * 40 + "b")


def sleep(_, *, wall_s):
    time.sleep(wall_s)
    return os.getpid()


def allocate(_, *, num_bytes):
    return int(np.ones(num_bytes, np.uint8)[-1])


def leak(_, *, num_bytes):
    _LEAKS.append(mmap.mmap(-1, num_bytes))
    return os.getpid()


def forge(_):
    """Write into every pipe what no parent expects."""
    for pipe in range(3, 12):
        with contextlib.suppress(OSError):
            os.write(pipe, LENGTHS.pack(4, 0) + b"junk")
    return "sound"


def modules(_):
    return sorted({name.partition(".")[0] for name in sys.modules})


def environment(_):
    return dict(os.environ)


def read_ends(read, *, num_bytes):
    return read(0, 3) + read(num_bytes - 3, 3)
