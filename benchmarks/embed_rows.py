"""An embedding of many tiny videos: does the driver keep up, and does its memory stay flat?

Each video is one stored frame of 32 × 32 and the model is tiny, so that what is left is the work around them: planning,
Ray Data's driver, reading, writing parts, the commit and its proof.
"""

import argparse
import io
import json
import tarfile
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import Result, Spread, machine, save
from cluster.session import connect
from fpig_core.backbone import Backbone
from fpig_core.bundle import save_bundle
from fpig_core.fpig import FPig, FPigConfig
from fpig_core.preprocess import Preprocess
from pipelines.embed import EmbedSettings, embed_parts, finish_embedding, plan_embedding
from pipelines.frame_cache import FrameStore, write_settings
from pipelines.frame_file import pack_frames
from pipelines.indexing import index_shards
from pipelines.manifest import load_manifest
from pipelines.part_files import Tally
from pipelines.verify import verify_corpus

PREPROCESS = Preprocess(num_frames=1, size=32)
SHARD_ROWS = 1000
NUM_SPANS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="videos")
    parser.add_argument("--quick", action="store_true", help="a few seconds on tiny inputs; the figures mean nothing")
    args, where = parser.parse_args(), machine()
    with tempfile.TemporaryDirectory() as folder:
        result = embed_rows(Path(folder), 4000 if args.quick else args.rows)
    save("embed_rows", [result], machine=where, quick=args.quick)


def embed_rows(folder: Path, num_rows: int) -> Result:
    """Embed and prove a set of ``num_rows`` videos -> videos/s of the slowest quarter ÷ those of the fastest."""
    write_shards(folder / "shards", num_rows)
    torch.manual_seed(0)
    save_bundle(folder / "model", FPig(FPigConfig(backbone=Backbone(name="tiny"), preprocess=PREPROCESS)))
    settings = EmbedSettings(part_rows=256, batch_size=64, num_actors=1, cpus_per_actor=1.5)
    connect()
    out, manifest = str(folder / "corpus"), load_manifest(str(folder / "shards"))
    plan = plan_embedding(manifest, model_url=str(folder / "model"), out_url=out, settings=settings)
    tally, points = Tally(plan.parts), [point(0)]
    for count in embed_parts(plan, settings):
        tally.add(count)
        points.append(point(points[-1]["done"] + count.num_embedded + count.num_rejected))
    meta = finish_embedding(plan, tally, lineage={})
    started = time.perf_counter()
    proof = verify_corpus(out, manifest)
    assert (meta["num_embedded"], proof.num_embedded, proof.problems) == (num_rows, num_rows, ())
    # The first span starts Ray's actors.
    rows = [points[round(edge)] for edge in np.linspace(0, len(points) - 1, NUM_SPANS + 1)]
    spans = [told(before, after) for before, after in pairwise(rows)]
    rates = [span["videos_per_s"] for span in spans[1:]]
    sides: dict[str, Any] = {"parts": len(plan.parts), "batches": plan.missing.num_batches(settings.batch_size)}
    sides |= {f"quarter {number + 1}": json.dumps(span) for number, span in enumerate(spans)}
    sides["proof, s"] = round(time.perf_counter() - started, 1)
    return Result(
        goal=9,
        what=f"{num_rows:,} videos of one frame: videos/s of the slowest later quarter ÷ fastest",
        wanted="flat memory, a driver that keeps up",
        figures={"wall": Spread.of([min(rates) / max(rates)])},
        sides=sides,
    )


def point(done: float) -> dict[str, float]:
    """Where the driver stands: videos, seconds by the clock and of CPU, resident memory."""
    status = Path("/proc/self/status").read_text()
    resident_mib = int(status.split("VmRSS:")[1].split()[0]) / 1024
    return {"done": done, "wall_s": time.perf_counter(), "cpu_s": time.process_time(), "mib": resident_mib}


def told(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    change = {name: after[name] - before[name] for name in after}
    return {
        "videos_per_s": round(change["done"] / change["wall_s"], 1),
        "driver_cpu_share": round(change["cpu_s"] / change["wall_s"], 3),
        "driver_mib": round(after["mib"], 1),
    }


def write_shards(root: Path, num_rows: int) -> None:
    """Shards of frame files of random pixels."""
    rng = np.random.default_rng(0)
    root.mkdir()
    for start in range(0, num_rows, SHARD_ROWS):
        with tarfile.open(root / f"shard-{start // SHARD_ROWS:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for number in range(start, min(start + SHARD_ROWS, num_rows)):
                frame_F3HW = rng.integers(0, 256, (1, 3, PREPROCESS.size, PREPROCESS.size), np.uint8)
                data = pack_frames(frame_F3HW, codec="raw", resize_mode=PREPROCESS.resize_mode)
                member = tarfile.TarInfo(f"{number:09d}.frames")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    index_shards(str(root))
    store = FrameStore(num_frames=PREPROCESS.num_frames, density=1, size=PREPROCESS.size)
    write_settings(str(root), load_manifest(str(root)), store=store)


if __name__ == "__main__":
    main()
