"""The training stream with nothing to decode: blocks a second, and the memory of the process that executes it.

    python -m benchmarks.scale_stream --blocks 20000

Prints a line every few seconds, and at the end the growth of each process's memory for each block that it handled.
``--way repartition`` is the same stream by ``range().repartition(1).map_batches()``, in one segment.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import ray
import ray.data

from benchmarks.measure import machine, save
from benchmarks.scale_blocks import ROWS, empty_block, repartitioned
from pipelines.blocks import block_stream
from pipelines.segments import PREFETCHED_BLOCKS, deal
from pipelines.stream import SEGMENT_BLOCKS

EXECUTES, CONSUMES, DEALS = "ray::SplitCoordinator", "ray::Consumer", "ray::_Segments"
MIB, PAGE = 1 << 20, 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """How far the stream was after ``seconds``, and the memory of the processes that serve it, by their names."""

    seconds: float
    blocks: int
    mib: dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--way", choices=["segments", "repartition"], default="segments")
    parser.add_argument("--blocks", type=int, default=20_000)
    parser.add_argument("--segment", type=int, default=SEGMENT_BLOCKS)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cpus", type=int, default=4, help="logical CPUs of Ray")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two looks")
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds after which it stops")
    parser.add_argument("--quick", action="store_true", help="a few seconds on tiny inputs; the figures mean nothing")
    args = parser.parse_args()
    if args.quick:
        args.blocks, args.segment, args.every = 60, 20, 1.0
    where = machine()
    ray.init("local", num_cpus=args.cpus, include_dashboard=False, object_store_memory=512 * MIB)
    points, pauses = measure(args)
    for name in sorted({name for point in points for name in point.mib}):
        print(f"{name:16s} {growth(points, name):8.0f} bytes a block")
    print(f"{rate(points):.1f} blocks/s; from one segment to the next {[round(pause, 2) for pause in pauses]} s")
    save("scale_stream", [], machine=where, quick=args.quick, more=points)


def measure(args: argparse.Namespace) -> tuple[list[Point], list[float]]:
    """Work through the stream -> what was seen on the way, and the pauses of the first worker between segments."""
    if args.way == "repartition":
        return consume(repartitioned(args.workers, args.blocks).streaming_split(args.workers, equal=True), args)
    load = functools.partial(empty_block, args.workers)
    starts = range(0, args.blocks, args.segment)
    numbers = [range(start, min(start + args.segment, args.blocks)) for start in starts]

    def make(number: int) -> ray.data.Dataset:
        return block_stream(load, numbers[number])

    with deal(make, num_segments=len(numbers), num_workers=args.workers) as shares:
        return consume(shares, args)


def consume(shares: Sequence[Any], args: argparse.Namespace) -> tuple[list[Point], list[float]]:
    workers = [Consumer.options(max_concurrency=2).remote(share, rank) for rank, share in enumerate(shares)]
    runs = [worker.run.remote(args.segment // args.workers) for worker in workers]
    start, points = time.perf_counter(), []
    while len(ray.wait(runs, num_returns=len(runs), timeout=args.every)[0]) < len(runs):
        blocks = sum(cast(list[int], ray.get([worker.done.remote() for worker in workers])))
        points.append(Point(seconds=time.perf_counter() - start, blocks=blocks, mib=memory()))
        print(json.dumps(dataclasses.asdict(points[-1])), flush=True)
        if points[-1].seconds > args.limit:
            return points, []
    return points, cast(list[list[float]], ray.get(runs))[0]


@ray.remote(num_cpus=0)
class Consumer:
    """A training worker that does nothing with its blocks but check their places."""

    def __init__(self, share: Any, rank: int):
        self._share, self._rank, self._done = share, rank, 0

    def run(self, segment: int) -> list[float]:
        pauses, before = [], time.perf_counter()
        repartitioned = isinstance(self._share, ray.data.DataIterator)
        whole: dict[str, Any] = {"batch_size": None, "prefetch_batches": PREFETCHED_BLOCKS}
        for block in self._share.iter_batches(**whole) if repartitioned else self._share:
            if self._done and self._done % segment == 0:
                pauses.append(time.perf_counter() - before)
            assert (block["batch"] == self._done).all()
            assert block["slot"][0] == self._rank * ROWS
            self._done, before = self._done + 1, time.perf_counter()
        return pauses

    def done(self) -> int:
        return self._done


def memory() -> dict[str, float]:
    """MiB of the largest process of each kind; those that execute also together."""
    found: dict[str, list[float]] = {}
    for name, mib in processes():
        if name in (EXECUTES, CONSUMES, DEALS, "gcs_server", "raylet"):
            found.setdefault(name.removeprefix("ray::"), []).append(mib)
    return {name: max(sizes) for name, sizes in found.items()} | {
        "all that execute": sum(found.get(EXECUTES.removeprefix("ray::"), []))
    }


def processes() -> Iterator[tuple[str, float]]:
    """Name and resident MiB of the processes that come from this one."""
    parents, told = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            number, command = int(folder.name), (folder / "cmdline").read_text().replace("\0", " ").split()
            parents[number] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            resident = int((folder / "statm").read_text().split()[1]) * PAGE
            told[number] = Path(command[0]).name.split(".")[0] if command else "", resident / MIB
    for number, (name, mib) in told.items():
        above = parents[number]
        while above not in (0, os.getpid()):
            above = parents.get(above, 0)
        if above:
            yield name, mib


def growth(points: list[Point], name: str) -> float:
    """Bytes a block by a straight line through the last three quarters."""
    seen = [(point.blocks, point.mib[name] * MIB) for point in points[len(points) // 4 :] if name in point.mib]
    return float(np.polyfit([x for x, _ in seen], [y for _, y in seen], 1)[0]) if len(seen) > 2 else float("nan")


def rate(points: list[Point]) -> float:
    first, last = points[len(points) // 4], points[-1]
    return (last.blocks - first.blocks) / max(last.seconds - first.seconds, 1e-9)


if __name__ == "__main__":
    main()
