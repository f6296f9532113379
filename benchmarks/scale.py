"""The data plane over manifests of many rows: time and peak memory of each step, which should not grow with them."""

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.measure import machine, save
from fpig_core.backbone import Backbone
from fpig_core.bundle import save_bundle
from fpig_core.fpig import FPig, FPigConfig
from fpig_core.preprocess import Preprocess
from pipelines import storage
from pipelines.manifest import MANIFEST_NAME, MANIFEST_SCHEMA, load_manifest, sample_uid
from pipelines.manifest_file import writing
from pipelines.part_plan import plan_parts

SHARD_ROWS = 1000
WORDS = ("a", "dog", "cat", "child", "runs", "jumps", "over", "the", "red", "blue", "ball", "in", "park", "street")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """What one step over ``num_rows`` rows took; ``more`` has what else it tells."""

    name: str
    num_rows: int
    seconds: float
    before_mib: float
    peak_mib: float
    more: dict[str, Any]

    def markdown(self) -> str:
        per_unit = 1e6 * self.seconds / self.more["work"]
        told = ", ".join(f"{name} {value:,.6g}" for name, value in self.more.items() if name != "unit")
        return (
            f"| {self.num_rows:,} | {self.name} | {self.seconds:.3f} s | {per_unit:.3g} µs / {self.more['unit']} | "
            f"{self.peak_mib - self.before_mib:.0f} MiB over {self.before_mib:.0f} | {told} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000], help="sizes of manifests")
    parser.add_argument("--quick", action="store_true", help="a few seconds on tiny inputs; the figures mean nothing")
    args, where = parser.parse_args(), machine()
    steps = []
    with tempfile.TemporaryDirectory() as folder:
        model = FPigConfig(backbone=Backbone(name="tiny"), preprocess=Preprocess(size=32))
        save_bundle(Path(folder) / "model", FPig(model))
        sets = {Path(folder) / str(num_rows): num_rows for num_rows in ([2000, 4000] if args.quick else args.rows)}
        steps += [write_set(root, num_rows) for root, num_rows in sets.items()]
        steps += measure(sets)
    for step in steps:
        print(step.markdown())
    save("scale", [], machine=where, quick=args.quick, more=steps)


def write_set(root: Path, num_rows: int) -> Step:
    """A manifest of made-up rows by the project's own writer, and empty files in the place of half its parts."""
    start = time.perf_counter()
    with writing(storage.join(str(root), MANIFEST_NAME), MANIFEST_SCHEMA) as writer:
        rng = np.random.default_rng(0)
        for shard in range(-(-num_rows // SHARD_ROWS)):
            count = min(SHARD_ROWS, num_rows - shard * SHARD_ROWS)
            writer.write(made_up_rows(f"shard-{shard:07d}.tar", count, rng), digest=f"{shard:064d}")
        writer.close()
    seconds = time.perf_counter() - start
    manifest = load_manifest(str(root))
    (root / "half/parts").mkdir(parents=True)
    for part in plan_parts(manifest, "model")[::2]:
        Path(part.url(str(root / "half"))).touch()
    more = {"unit": "row", "work": num_rows, "bytes_a_row": storage.size(manifest.url) / num_rows}
    return Step(name="write", num_rows=num_rows, seconds=seconds, before_mib=0, peak_mib=0, more=more)


def made_up_rows(shard: str, count: int, rng: np.random.Generator) -> pa.Table:
    """Rows of one shard as an index would find them: one caption of some ten words, videos of about 1 MiB."""
    keys = [f"{number:09d}" for number in range(count)]
    num_bytes = rng.integers(1 << 19, 3 << 19, count)
    offset = np.cumsum(num_bytes) - num_bytes + 1536 * np.arange(1, count + 1)
    words = rng.choice(WORDS, (count, 10))
    columns: dict[str, Any] = dict.fromkeys(MANIFEST_SCHEMA.names, [None] * count)
    columns |= {
        "uid": [sample_uid(shard, key) for key in keys],
        "shard": [shard] * count,
        "shard_bytes": [int(num_bytes.sum())] * count,
        "key": keys,
        "video_id": keys,
        "video_suffix": ["mp4"] * count,
        "video_offset": offset,
        "video_bytes": num_bytes,
        "captions": [[" ".join(row)] for row in words.tolist()],
        "sha256": [rng.bytes(32).hex() for _ in range(count)],
        "status": ["ok"] * count,
        "reason": [""] * count,
    }
    return pa.table(columns, schema=MANIFEST_SCHEMA)


def measure(folders: Iterable[Path]) -> list[Step]:
    command = [sys.executable, "-m", "benchmarks.scale_steps", *map(str, folders)]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [Step(**json.loads(line)) for line in told.splitlines() if line.startswith("{")]


if __name__ == "__main__":
    main()
