"""Ranges, the cache, threads and figures of the service."""

import asyncio
import os
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.serving.cache import ENTRY_BYTES, ByteCache
from jobs.serving.errors import ApiError, of_message
from jobs.serving.limits import ServeLimits
from jobs.serving.ranges import UnsatisfiableError, parse_range
from jobs.serving.workers import Workers


@given(num_bytes=st.integers(0, 30), first=st.integers(0, 40), length=st.integers(1, 40))
def test_ranges_are_slices(num_bytes, first, length):
    content = bytes(range(num_bytes))
    for header, wanted in (
        (f"bytes={first}-{first + length - 1}", content[first : first + length]),
        (f"Bytes = {first}-", content[first:]),
        (f"bytes=-{length}", content[-length:]),
    ):
        if not wanted:
            with pytest.raises(UnsatisfiableError):
                parse_range(header, num_bytes=num_bytes)
            continue
        span = parse_range(header, num_bytes=num_bytes)
        assert span is not None
        assert content[span.start : span.stop] == wanted


@pytest.mark.parametrize(
    "header", [None, "", "bytes=", "bytes=-", "bytes=5-2", "bytes=0-1,4-5", "items=0-1", "bytes=a-b", "bytes=--1"]
)
def test_other_headers_are_passed_over(header):
    assert parse_range(header, num_bytes=10) is None


def test_the_cache_holds_what_was_used_last_within_its_bytes():
    cache: ByteCache[int] = ByteCache(3 * (ENTRY_BYTES + 100))
    for number in range(3):
        cache.put(number, number, num_bytes=100)
    assert cache.get(0) == 0
    cache.put(3, 3, num_bytes=100)
    assert [cache.get(number) for number in range(4)] == [0, None, 2, 3]
    cache.put(4, 4, num_bytes=10_000)
    assert cache.get(4) is None
    cache.put(3, 33, num_bytes=100)
    assert (cache.get(3), cache.num_bytes) == (33, 3 * (ENTRY_BYTES + 100))


def test_threads_refuse_what_would_wait_too_long():
    async def story():
        release = threading.Event()
        workers = Workers("tests", num_threads=1, max_pending=2, timeout_s=0.2)
        slow = asyncio.create_task(workers.run(release.wait))
        waiting = asyncio.create_task(workers.run(len, "abc"))
        await asyncio.sleep(0)
        with pytest.raises(ApiError) as refused:
            await workers.run(len, "")
        told = [error.code for error in await asyncio.gather(slow, waiting, return_exceptions=True)]  # type: ignore
        release.set()
        while True:
            try:
                return refused.value, told, await workers.run(len, "four")
            except ApiError:
                await asyncio.sleep(0.01)

    refused, told, value = asyncio.run(story())
    assert (refused.status, refused.code, refused.retry_after_s) == (503, "busy", 1)
    assert (told, value) == (["too_slow", "too_slow"], 4)


def test_errors_of_functions_come_through():
    def fail():
        raise TimeoutError("the store's own")

    with pytest.raises(TimeoutError, match="the store's own"):
        asyncio.run(Workers("tests", num_threads=1, max_pending=1, timeout_s=5).run(fail))


def test_messages_are_taken_apart():
    error = of_message(422, "bad_request", "got top=0, wanted 1 to 9; ask for one")
    assert (error.got, error.wanted, error.remedy) == ("top=0", "1 to 9", "ask for one")
    error = of_message(422, "bad_request", "got a condition on 'a; b'; there are c, d")
    assert (error.got, error.wanted, error.remedy) == ("a condition on 'a; b'", "", "there are c, d")


def test_limits_are_checked():
    with pytest.raises(ValueError, match="max_top=0"):
        ServeLimits(max_top=0)


COUNTING = """
import sys
from jobs.serving.metrics import Metrics
metrics = Metrics()
metrics.requests.labels("/search", "200").inc()
metrics.in_flight.inc()
print(metrics.text().decode())
"""


def test_a_scrape_adds_up_the_processes_of_a_machine(tmp_path):
    env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    texts = [
        subprocess.run([sys.executable, "-c", COUNTING], env=env, check=True, capture_output=True, text=True).stdout
        for _ in range(2)
    ]
    assert 'fpig_requests_total{route="/search",status="200"} 2.0' in texts[1]
    assert "fpig_requests_in_flight 1.0" in texts[1]  # the first process is gone, and nobody counts its request down
