"""A stream in segments: what the workers receive does not tell where one ends, and no process outlives its segment."""

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import ray
import ray.data

from pipelines.blocks import block_stream
from pipelines.segments import Share, deal

ROWS = 2
slow = pytest.mark.slow


def load(number: int) -> dict[str, Any]:
    return {"number": np.full(ROWS, number), "text": np.array([f"block {number}", "ä"], dtype=object)}


@ray.remote(num_cpus=0)
def consume(share: Share) -> list[tuple[list[int], list[str]]]:
    return [(block["number"].tolist(), block["text"].tolist()) for block in share]


@pytest.mark.parametrize(
    ("num_workers", "segment", "num_blocks"),
    [(2, 4, 10), *(pytest.param(*case, marks=slow) for case in [(1, 1, 3), (3, 6, 15), (4, 8, 200), (2, 4, 0)])],
)
def test_workers_receive_all_blocks_in_turn(ray_local, num_workers: int, segment: int, num_blocks: int) -> None:
    starts = range(0, num_blocks, segment)

    def make(number: int) -> ray.data.Dataset:
        return block_stream(load, range(starts[number], min(starts[number] + segment, num_blocks)))

    with deal(make, num_segments=len(starts), num_workers=num_workers) as shares:
        received: Any = ray.get([consume.remote(share) for share in shares])
    for rank, blocks in enumerate(received):
        wanted = range(rank, num_blocks, num_workers)
        assert blocks == [([number] * ROWS, [f"block {number}", "ä"]) for number in wanted]


@slow
def test_a_process_for_each_segment_and_none_left_behind() -> None:
    command = [sys.executable, "-m", "benchmarks.scale_stream", "--blocks", "600", "--segment", "60", "--every", "1"]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    points = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
    together = [point["mib"]["all that execute"] / point["mib"].get("SplitCoordinator", 1) for point in points]
    assert len(points) > 10
    # One that works, one that is ready, and for a moment one that is done.
    assert max(together) <= 3
