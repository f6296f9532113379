"""A trace of some training steps: what the worker's threads and its device did when, and which operations cost most."""

import contextlib
import gzip
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import torch
from torch.profiler import ProfilerActivity, profile, schedule

FOLDER = "profile"
NUM_WARMUP, NUM_TRACED = 3, 5
NUM_OPERATIONS = 40

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def trace_steps(run_url: str, *, rank: int, device: torch.device) -> Iterator[Callable[[], None]]:
    """Trace ``NUM_TRACED`` steps after ``NUM_WARMUP`` others -> what to call at the end of each step.

    ``RUN/profile/rank-R.json.gz`` is a Chrome trace, which Perfetto opens, ``rank-R.txt`` a table of the operations
    that took most of the time. A training that ends earlier leaves what it got to. A refusing store costs the trace.
    """
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]

    def write(profiler: profile) -> None:
        with tempfile.TemporaryDirectory() as local:
            trace = Path(local) / "trace.json"
            profiler.export_chrome_trace(str(trace))
            packed = Path(local) / f"rank-{rank}.json.gz"
            with open(trace, "rb") as source, gzip.open(packed, "wb") as target:
                shutil.copyfileobj(source, target)
            table = packed.with_name(f"rank-{rank}.txt")
            order = f"self_{device.type}_time_total"
            table.write_text(profiler.key_averages().table(sort_by=order, row_limit=NUM_OPERATIONS) + "\n")
            try:
                filesystem, root = fsspec.core.url_to_fs(f"{run_url}/{FOLDER}")
                filesystem.makedirs(root, exist_ok=True)
                for path in (packed, table):
                    filesystem.put_file(str(path), f"{root}/{path.name}")
            except Exception as error:  # what a store raises is of many kinds
                logger.warning("the trace was not saved under %s (%s: %s)", run_url, type(error).__name__, error)

    steps = schedule(wait=0, warmup=NUM_WARMUP, active=NUM_TRACED, repeat=1)
    with profile(activities=activities, schedule=steps, on_trace_ready=write) as profiler:
        yield profiler.step
