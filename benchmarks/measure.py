"""Compare ways to do the same work on a noisy machine, and write down what came out and where."""

import argparse
import dataclasses
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from jobs.revision import code_revision

OUT = Path("runs/benchmarks")
LIBRARIES = ("av", "faiss-cpu", "numpy", "open_clip_torch", "pyarrow", "ray", "torch")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds of every repeat of one way, by the wall clock and on the CPUs (this process with all its threads)."""

    wall_s: list[float]
    cpu_s: list[float]

    def medians(self) -> str:
        return f"{statistics.median(self.cpu_s):.3f} / {statistics.median(self.wall_s):.3f} s"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spread:
    """The median over the repeats, between the lowest and the highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(median=statistics.median(values), low=min(values), high=max(values))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}–{self.high:.2f})"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """One figure for the goal of this number, by one or both clocks, and what it should be."""

    goal: int
    what: str
    wanted: str
    figures: dict[str, Spread]
    sides: dict[str, Any]

    def markdown(self) -> str:
        figures = ", ".join(f"{clock} {spread}" for clock, spread in self.figures.items())
        sides = "; ".join(
            f"{name} {side.medians() if isinstance(side, Timing) else side}" for name, side in self.sides.items()
        )
        return f"| {self.goal} | {self.what} | {figures} | {self.wanted} | {sides} |"


def alternate(
    ways: Mapping[str, Callable[[], object]], *, repeats: int, cpu_clock: Callable[[], float] = time.process_time
) -> dict[str, Timing]:
    """Do the same work in every way, by turns and in alternating order, after one round that does not count."""
    timings = {name: Timing(wall_s=[], cpu_s=[]) for name in ways}
    for repeat in range(repeats + 1):
        for name in list(ways)[:: 1 if repeat % 2 else -1]:
            wall, cpu = time.perf_counter(), cpu_clock()
            ways[name]()
            wall_s, cpu_s = time.perf_counter() - wall, cpu_clock() - cpu
            if repeat:
                timings[name].wall_s.append(wall_s)
                timings[name].cpu_s.append(cpu_s)
    return timings


def own_cpu_s(_: bytes) -> float:
    """CPU time of the process that runs this, for a guarded child to tell its own."""
    return time.process_time()


def ratios(slow: Timing, fast: Timing, *, factor: float = 1.0) -> dict[str, Spread]:
    """How many times ``fast`` is faster, by CPU and by wall time: ``factor · slow / fast`` of each repeat's pair."""
    return {
        clock: Spread.of([factor * a / b for a, b in zip(slows, fasts, strict=True)])
        for clock, slows, fasts in (("CPU", slow.cpu_s, fast.cpu_s), ("wall", slow.wall_s, fast.wall_s))
    }


def machine() -> dict[str, Any]:
    """What the figures hold for. To be taken before the work starts, for the load of the others."""
    cpu = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "libraries": {name: metadata.version(name) for name in LIBRARIES},
        "code": code_revision(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def is_quick() -> bool:
    """The one option of every benchmark."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a few seconds on tiny inputs; the figures mean nothing")
    return parser.parse_args().quick


def save(name: str, results: list[Result], *, machine: dict[str, Any], quick: bool, more: Sequence[Any] = ()) -> None:
    """Write ``runs/benchmarks/NAME.json`` and print the rows of the table; ``more`` are dataclasses, kept only."""
    path = OUT / f"{name}{'-quick' if quick else ''}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    machine = {**machine, "load_average_at_end": [round(load, 2) for load in os.getloadavg()]}
    content = {"machine": machine, "results": [dataclasses.asdict(result) for result in [*results, *more]]}
    path.write_text(json.dumps(content, indent=1) + "\n")
    load = machine["load_average"][0]
    print(f"{machine['cpu']}, {machine['cores']} cores, load {load} at the start, code {machine['code']}")
    for result in results:
        print(result.markdown())
    print(f"Written: {path}", flush=True)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
