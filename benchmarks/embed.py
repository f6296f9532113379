"""The embedding pipeline beside what its machine could do at best: from videos (goal 2), from stored frames (goal 3);
with two models instead of one (goal 8); and after its driver was killed (goal 9).

The ideal is computed from what decoding and the model cost alone, in one process with one thread: cores ÷ CPU seconds
of a video. The pipeline's rate is that at which further videos are done: a large set and a small one are embedded, and
the difference in videos is divided by the difference in time, which leaves the start of Ray's actors out.
"""

import dataclasses
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.clips import make_clip, write_copies
from benchmarks.embed_faults import faults
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

# Videos that go through the model at once, and in the two sets. The small one is one part.
BATCH, SMALL, LARGE = {"tiny": 32, "ViT-B-32": 8}, {"tiny": 128, "ViT-B-32": 8}, {"tiny": 1152, "ViT-B-32": 40}
REPEATS = {"tiny": 3, "ViT-B-32": 1}
SCALED, SCALED_REPEATS = "ViT-B-32", 3
# Whole rounds of batches for one model as for two.
SCALED_BATCH, SCALED_SETS = 8, (16, 64)
KILLED_SET, KILLS = 3200, 3
FRAME_SIZE = {"tiny": 32, "ViT-B-32": 224}


def main() -> None:
    quick, where = is_quick(), machine()
    torch.set_num_threads(1)
    connect()
    results = []
    for name in LARGE:
        with tempfile.TemporaryDirectory() as folder:
            num_videos = (BATCH[name], 3 * BATCH[name]) if quick else (SMALL[name], LARGE[name])
            results += embedding(
                Path(folder), name, num_videos, repeats=1 if quick else REPEATS[name], cores=where["cores"]
            )
    with tempfile.TemporaryDirectory() as folder:
        results.append(scaling(Path(folder), num_videos=(16, 32) if quick else SCALED_SETS, quick=quick))
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder) / "model", "tiny")
        manifest = stored_frames(Path(folder), "tiny", 80 if quick else KILLED_SET, num_frames=12, width=32, height=32)
        results.append(faults(manifest, Path(folder) / "model", repeats=1 if quick else KILLS))
    save("embed", results, machine=where, quick=quick)


def embedding(folder: Path, name: str, num_videos: tuple[int, int], *, repeats: int, cores: int) -> list[Result]:
    """Both goals with one model of random weights over copies of one clip, in a small and a large set."""
    save_model(folder / "model", name)
    frames = [stored_frames(folder, name, num) for num in num_videos]
    videos = [load_manifest(str(folder / f"videos-{num}")) for num in num_videos]
    batch = BATCH[name]
    one = EmbedSettings(part_rows=num_videos[0], batch_size=batch, num_actors=1, cpus_per_actor=1, cpus_per_decoder=0.5)
    many = dataclasses.replace(one, num_actors=cores)
    sides: dict[str, list[float]] = {key: [] for key in ("ideal", "pipeline", "bare loop", "pipeline from frames")}
    for _ in range(repeats):
        sides["ideal"].append(cores / sum(alone(folder / "model", videos[0], batch, clock=time.process_time)))
        sides["pipeline"].append(rate(folder, videos, many))
        sides["bare loop"].append(1 / sum(alone(folder / "model", frames[0], batch, clock=time.perf_counter)))
        sides["pipeline from frames"].append(rate(folder, frames, one))
    what = f"{name}, 12 of 250 frames, 320 × 240: videos/s"
    return [
        result(2, f"{what} of the whole pipeline ÷ ideal ({cores} cores)", sides, "pipeline", "ideal"),
        result(3, f"{what} from stored frames, one model ÷ its bare loop", sides, "pipeline from frames", "bare loop"),
    ]


def scaling(folder: Path, *, num_videos: tuple[int, int], quick: bool) -> Result:
    """Two copies of a model beside one, from stored frames, so that the model is what takes the time."""
    name = "tiny" if quick else SCALED
    save_model(folder / "model", name)
    frames = [stored_frames(folder, name, num) for num in num_videos]
    sizes: dict[str, Any] = {"part_rows": SCALED_BATCH, "batch_size": SCALED_BATCH}
    one = EmbedSettings(**sizes, num_actors=1, cpus_per_actor=1, cpus_per_decoder=0.5)
    sides: dict[str, list[float]] = {"one model": [], "two models": []}
    for _ in range(1 if quick else SCALED_REPEATS):
        sides["one model"].append(rate(folder, frames, one))
        sides["two models"].append(rate(folder, frames, dataclasses.replace(one, num_actors=2)))
    return result(8, f"{name}, 12 stored frames: videos/s of two models ÷ one", sides, "two models", "one model")


def save_model(folder: Path, name: str) -> None:
    """A model of random weights."""
    torch.manual_seed(0)
    preprocess = Preprocess(size=FRAME_SIZE[name])
    save_bundle(folder, FPig(FPigConfig(backbone=Backbone(name=name), preprocess=preprocess)))


def stored_frames(folder: Path, name: str, num: int, **clip: int) -> Manifest:
    """Copies of one clip at ``folder/videos-NUM``, and their frames as the model wants them."""
    preprocess = Preprocess(size=FRAME_SIZE[name])
    videos = write_copies(folder / f"videos-{num}", make_clip(gop=250, **clip), num=num)
    out = str(folder / f"frames-{num}")
    store = FrameStore(codec="raw", density=1, num_frames=preprocess.num_frames, size=preprocess.size)
    cache_frames.main(cache_frames.Args(manifest=videos.root, out=out, store=store, num_workers=1))
    return load_manifest(out)


def result(goal: int, what: str, sides: dict[str, list[float]], ours: str, theirs: str) -> Result:
    wanted = {2: "floor 0.75, goal 0.88", 3: "floor 0.90, goal 0.96", 8: "floor 1.6, goal 1.85"}[goal]
    ratio = Spread.of([a / b for a, b in zip(sides[ours], sides[theirs], strict=True)])
    shown: dict[str, Any] = {f"{side}, videos/s": str(Spread.of(sides[side])) for side in (theirs, ours)}
    return Result(goal=goal, what=what, wanted=wanted, figures={"wall": ratio}, sides=shown)


def alone(model: Path, manifest: Manifest, batch: int, *, clock: Callable[[], float]) -> tuple[float, float]:
    """Seconds a video of reading and decoding, and of the model, by themselves, with one thread, in a batch."""
    bundle = load_bundle(model)
    preprocess = bundle.config.preprocess
    start = clock()
    records = manifest.take(np.arange(batch)).to_pylist()
    videos = read_videos(manifest, records, verify="sha256")
    frame_BF3HW = np.stack(
        [decode_sample(record, video, preprocess=preprocess) for record, video in zip(records, videos, strict=True)]
    )
    decoded = clock()
    with torch.inference_mode():
        bundle.model.encode_video(torch.from_numpy(frame_BF3HW))
        warm = clock()
        bundle.model.encode_video(torch.from_numpy(frame_BF3HW))
    return (decoded - start) / batch, (clock() - warm) / batch


def rate(folder: Path, manifests: Sequence[Manifest], settings: EmbedSettings) -> float:
    """Videos a second of an embedding, once it runs."""
    seconds = []
    for manifest in manifests:
        with tempfile.TemporaryDirectory(dir=folder) as out:
            start = time.perf_counter()
            plan = plan_embedding(manifest, model_url=str(folder / "model"), out_url=out, settings=settings)
            list(embed_parts(plan, settings))
            seconds.append(time.perf_counter() - start)
    small, large = manifests
    return (large.num_rows - small.num_rows) / (seconds[1] - seconds[0])


if __name__ == "__main__":
    main()
