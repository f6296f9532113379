"""What a call does to its process reaches the caller as an error of that one sample, and nothing else."""

import functools
import os
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest

from pipelines import guard, guard_process
from pipelines.guard import run_guarded
from pipelines.limits import VideoLimits
from pipelines.quarantine import SampleError
from tests.pipelines import victims

ROOT = Path(__file__).parents[2]


@pytest.fixture
def fresh():
    """No child that has served anything."""
    while child := guard._children._pop():
        child.close()


def rejected(function, data=b"", **limits):
    with pytest.raises(SampleError) as caught:
        run_guarded(function, data, limits=VideoLimits(**limits))
    return caught.value


def pid():
    return run_guarded(victims.pid, b"")


def test_results_come_back_from_one_process_that_stays():
    data = np.random.default_rng(0).bytes(3_000_000)
    first = pid()
    assert first != os.getpid()
    np.testing.assert_array_equal(run_guarded(victims.frames, data), np.frombuffer(data, np.uint8).reshape(2, -1))
    assert run_guarded(victims.backwards, data) == data[::-1]
    assert run_guarded(victims.chatter, b"") == "said"
    assert (rejected(victims.reject).code, rejected(victims.reject).detail) == ("no_frames", "none at all")
    assert pid() == first


def test_the_child_loads_no_engine_and_sees_no_password(fresh, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    loaded = run_guarded(victims.modules, b"")
    assert "av" in loaded
    assert not {"torch", "ray", "pyarrow", "fsspec", "botocore"} & set(loaded)
    assert "canary" not in run_guarded(victims.environment, b"").values()


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT"])
def test_a_crash_is_told_by_its_signal(fresh, tmp_path, name):
    """Once by a child that has served nothing else; else it may have been the sample before."""
    log = tmp_path / "log"
    for num_calls in (1, 3):
        error = rejected(functools.partial(victims.die, log=log, name=name))
        assert (error.code, error.detail, error.stage) == ("decoder_crashed", name, "decode")
        assert len(log.read_text()) == num_calls
        pid()


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_a_death_that_may_come_from_outside_is_tried_once_more(fresh, tmp_path, name):
    once, always = tmp_path / "once", tmp_path / "always"
    assert run_guarded(functools.partial(victims.die, log=once, name=name, times=1), b"sound") == b"sound"
    assert len(once.read_text()) == 2
    error = rejected(functools.partial(victims.die, log=always, name=name))
    assert (error.code, error.detail, len(always.read_text())) == ("decoder_crashed", name, 2)


def test_an_exit_and_an_error_that_nobody_foresaw_are_told():
    assert rejected(functools.partial(victims.leave, code=3)).detail == "exit code 3"
    error = rejected(victims.blunder)
    assert (error.code, error.detail) == ("decoder_crashed", "KeyError: 'what nobody foresaw'")


def test_a_child_that_lies_is_not_believed():
    error = rejected(victims.forge)
    assert (error.code, error.detail) == ("decoder_crashed", "an answer that is none: JSONDecodeError")
    assert pid()


def test_too_much_cpu_time_is_told():
    error = rejected(functools.partial(victims.spin, cpu_s=60), max_cpu_s=1)
    assert (error.code, error.detail) == ("too_slow", "over its limit of CPU time")


def test_each_sample_has_its_own_cpu_time():
    limits = VideoLimits(max_cpu_s=1)
    pids = {run_guarded(functools.partial(victims.spin, cpu_s=0.7), b"", limits=limits) for _ in range(3)}
    assert len(pids) == 1


def test_standing_still_is_told(monkeypatch):
    monkeypatch.setattr(guard_process, "_TICK_S", 0.1)
    sleep = functools.partial(victims.sleep, wall_s=60)
    assert (rejected(sleep, max_idle_s=0.5).code, rejected(sleep, max_wait_s=0.5).code) == ("too_slow", "too_slow")


def test_a_busy_machine_is_no_reason(monkeypatch):
    """A child that gets next to no CPU for longer than it may be idle, and no more than it may use."""
    monkeypatch.setattr(guard_process, "_TICK_S", 0.1)
    child = pid()
    stop = threading.Event()

    def starve():
        while not stop.is_set():
            os.kill(child, signal.SIGSTOP)
            time.sleep(0.2)
            os.kill(child, signal.SIGCONT)
            time.sleep(0.1)

    thread = threading.Thread(target=starve)
    thread.start()
    try:
        spin = functools.partial(victims.spin, cpu_s=0.6)
        assert run_guarded(spin, b"", limits=VideoLimits(max_cpu_s=2, max_idle_s=1.5)) == child
    finally:
        stop.set()
        thread.join()


def test_too_much_memory_is_told_and_not_taken():
    before = pid()
    error = rejected(functools.partial(victims.allocate, num_bytes=1 << 30), max_memory_bytes=256 << 20)
    assert (error.code, error.detail) == ("too_large", "decoding wanted more than 256 MiB")
    peak_kib = int(Path(f"/proc/{before}/status").read_text().split("VmHWM:")[1].split()[0])
    assert peak_kib < 400 << 10
    assert run_guarded(functools.partial(victims.allocate, num_bytes=1 << 28), b"") == 1
    assert pid() == before


def test_a_child_that_keeps_memory_is_replaced():
    assert run_guarded(functools.partial(victims.leak, num_bytes=600 << 20), b"") != pid()


def test_a_child_that_was_killed_while_idle_is_replaced(tmp_path):
    old = pid()
    os.kill(old, signal.SIGKILL)
    os.waitid(os.P_PID, old, os.WEXITED | os.WNOWAIT)
    assert pid() != old


def test_ranges_are_read_by_the_parent():
    data = bytes(range(100))
    asked = []

    def read(start, length):
        asked.append((start, length))
        return data[start : start + length]

    read_ends = functools.partial(victims.read_ends, num_bytes=100)
    assert run_guarded(read_ends, read) == data[:3] + data[-3:]
    assert asked == [(0, 3), (97, 3)]

    def outage(start, length):
        raise OSError("the store does not answer")

    with pytest.raises(OSError, match="does not answer"):
        run_guarded(read_ends, outage)
    assert run_guarded(read_ends, read) == data[:3] + data[-3:]


def test_a_function_that_the_child_cannot_load_is_our_mistake(monkeypatch):
    module = types.ModuleType("known_here_alone")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(module, "pid", victims.pid, raising=False)
    monkeypatch.setattr(victims.pid, "__module__", module.__name__)
    with pytest.raises(RuntimeError, match="No module named 'known_here_alone'"):
        run_guarded(victims.pid, b"")


def test_a_child_that_does_not_start_is_no_fault_of_a_sample(fresh, monkeypatch, capfd):
    monkeypatch.setattr(sys, "path", [str(ROOT)])
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match=r"does not start \(exit code 1\)"):
        pid()


def test_threads_have_children_of_their_own_that_stay_when_they_end(fresh):
    pids = []
    sleep = functools.partial(victims.sleep, wall_s=0.3)
    threads = [threading.Thread(target=lambda: pids.append(run_guarded(sleep, b""))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(pids)) == 2
    assert pid() in pids


PARENT = """
import threading
from pipelines.guard import run_guarded
from tests.pipelines import victims

print(run_guarded(victims.pid, b""), flush=True)
run_guarded(victims.{call}, b"")
"""


@pytest.mark.parametrize("call", ["spin_in_c", "pid"])
def test_a_killed_worker_leaves_no_child(call):
    """Whatever the child is doing, and also when it does nothing."""
    code = PARENT.format(call=call) + "threading.Event().wait()"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert Path(f"/proc/{child}").exists()
        parent.kill()
    deadline = time.monotonic() + 10
    while is_alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_alive(process):
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"
