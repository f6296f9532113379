"""The embedding pipeline beside what its machine could do at best: from videos (goal 2), from stored frames (goal 3).

The ideal is computed from what decoding and the model cost alone, in one process with one thread: cores ÷ CPU seconds
of a video. The pipeline's rate counts from its first part to its last, without the start of Ray and of the model.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.clips import make_clip, write_copies
from benchmarks.measure import Result, Spread, is_quick, machine, save
from cluster.session import connect
from fpig_core.backbone import Backbone
from fpig_core.bundle import load_bundle, save_bundle
from fpig_core.fpig import FPig, FPigConfig
from fpig_core.preprocess import Preprocess
from jobs import cache_frames
from pipelines.decode import decode_sample
from pipelines.embed import EmbedSettings, embed_parts, plan_embedding
from pipelines.frame_cache import FrameStore
from pipelines.manifest import Manifest, load_manifest
from pipelines.reader import read_videos

BATCH = 8
PARTS = {"tiny": 40, "ViT-B-32": 8}
FRAME_SIZE = {"tiny": 32, "ViT-B-32": 224}


def main() -> None:
    quick, where = is_quick(), machine()
    torch.set_num_threads(1)
    connect()
    results = []
    for name, parts in PARTS.items():
        with tempfile.TemporaryDirectory() as folder:
            results += embedding(
                Path(folder), name, num_parts=3 if quick else parts, repeats=1 if quick else 5, cores=where["cores"]
            )
    save("embed", results, machine=where, quick=quick)


def embedding(folder: Path, name: str, *, num_parts: int, repeats: int, cores: int) -> list[Result]:
    """Both goals with one model of random weights over copies of one clip."""
    preprocess = Preprocess(size=FRAME_SIZE[name])
    torch.manual_seed(0)
    save_bundle(folder / "model", FPig(FPigConfig(backbone=Backbone(name=name), preprocess=preprocess)))
    videos = write_copies(folder / "videos", make_clip(gop=250), num=num_parts * BATCH)
    store = FrameStore(codec="raw", density=1, num_frames=preprocess.num_frames, size=preprocess.size)
    cache_frames.main(cache_frames.Args(manifest=videos.root, out=str(folder / "frames"), store=store, num_workers=1))
    frames = load_manifest(str(folder / "frames"))
    everything = EmbedSettings(
        part_rows=BATCH, batch_size=BATCH, num_actors=cores, cpus_per_actor=1, cpus_per_decoder=0.5
    )
    one_model = EmbedSettings(part_rows=BATCH, batch_size=BATCH, num_actors=1, cpus_per_actor=1, cpus_per_decoder=0.5)
    sides: dict[str, list[float]] = {key: [] for key in ("ideal", "pipeline", "bare loop", "pipeline from frames")}
    for repeat in range(repeats):
        decode_s, forward_s = alone(folder / "model", videos)
        sides["ideal"].append(cores / (decode_s + forward_s))
        sides["pipeline"].append(rate(folder, videos, everything, out=f"corpus-{repeat}"))
        sides["bare loop"].append(1 / sum(alone(folder / "model", frames, clock=time.perf_counter)[1:]))
        sides["pipeline from frames"].append(rate(folder, frames, one_model, out=f"frame-corpus-{repeat}"))
    what = f"{name}, 12 of 250 frames, 320 × 240"
    return [
        result(2, f"{what}: videos/s of the whole pipeline ÷ ideal ({cores} cores)", sides, "pipeline", "ideal"),
        result(
            3,
            f"{what}: videos/s from stored frames, one model ÷ its bare loop",
            sides,
            "pipeline from frames",
            "bare loop",
        ),
    ]


def result(goal: int, what: str, sides: dict[str, list[float]], ours: str, theirs: str) -> Result:
    wanted = {2: "floor 0.75, goal 0.88", 3: "floor 0.90, goal 0.96"}[goal]
    ratio = Spread.of([a / b for a, b in zip(sides[ours], sides[theirs], strict=True)])
    shown: dict[str, Any] = {f"{side}, videos/s": str(Spread.of(sides[side])) for side in (theirs, ours)}
    return Result(goal=goal, what=what, wanted=wanted, figures={"wall": ratio}, sides=shown)


def alone(model: Path, manifest: Manifest, *, clock: Any = time.process_time) -> tuple[float, float]:
    """Seconds a video of reading and decoding, and of the model, by themselves, with one thread."""
    bundle = load_bundle(model)
    preprocess = bundle.config.preprocess
    row = np.arange(BATCH)
    start = clock()
    records = manifest.take(row).to_pylist()
    videos = read_videos(manifest, row.tolist(), verify="sha256")
    frame_BF3HW = np.stack(
        [decode_sample(record, video, preprocess=preprocess) for record, video in zip(records, videos, strict=True)]
    )
    decoded = clock()
    with torch.inference_mode():
        bundle.model.encode_video(torch.from_numpy(frame_BF3HW))
        warm = clock()
        bundle.model.encode_video(torch.from_numpy(frame_BF3HW))
    return (decoded - start) / BATCH, (clock() - warm) / BATCH


def rate(folder: Path, manifest: Manifest, settings: EmbedSettings, *, out: str) -> float:
    """Videos a second of an embedding, from its first part to its last."""
    plan = plan_embedding(manifest, model_url=str(folder / "model"), out_url=str(folder / out), settings=settings)
    times = [time.perf_counter() for _ in embed_parts(plan, settings)]
    return BATCH * (len(times) - 1) / (times[-1] - times[0])


if __name__ == "__main__":
    main()
