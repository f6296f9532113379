"""Frames from a cache beside frames from the videos: samples a second, bytes, and what JPEG does to the vectors."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.clips import make_clip, write_copies
from benchmarks.measure import Result, Spread, alternate, is_quick, machine, ratios, save
from fpig_core.backbone import Backbone
from fpig_core.fpig import FPig, FPigConfig
from fpig_core.preprocess import Preprocess
from jobs import cache_frames
from pipelines.decode import decode_sample
from pipelines.frame_cache import FrameStore
from pipelines.manifest import Manifest, load_manifest
from pipelines.reader import read_videos
from pipelines.transcode import Encoding

NUM_VIDEOS = 8


def main() -> None:
    quick, where = is_quick(), machine()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        results = caches(Path(folder), num_frames=25 if quick else 250, repeats=1 if quick else 5)
    save("cache", results, machine=where, quick=quick)


def caches(folder: Path, *, num_frames: int, repeats: int) -> list[Result]:
    """Read and decode all samples of a set with training's jitter: the videos, and what can stand for them."""
    data = make_clip(gop=250, num_frames=num_frames)
    sets = {
        "videos": write_copies(folder / "videos", data, num=NUM_VIDEOS),
        "transcoded": write_copies(folder / "transcoded", data, num=NUM_VIDEOS, encoding=Encoding(gop=12)),
    }
    stores = {f"{codec} ×{density}": (codec, density) for codec in ("raw", "jpeg") for density in (2, 4)}
    for name, (codec, density) in stores.items():
        store = FrameStore(codec=codec, density=density)  # pyright: ignore[reportArgumentType]
        cache_frames.main(
            cache_frames.Args(manifest=sets["videos"].root, out=str(folder / name), store=store, num_workers=1)
        )
        sets[name] = load_manifest(str(folder / name))
    preprocess, found = Preprocess(), {}

    def visit(name: str) -> None:
        found[name] = frames_of(sets[name], preprocess, jitter=True)

    timings = alternate({name: lambda name=name: visit(name) for name in sets}, repeats=repeats)
    vector = {name: vectors(frames_of(manifest, preprocess, jitter=False)) for name, manifest in sets.items()}
    video_bytes = sum(sets["videos"].table.column("video_bytes").to_pylist())
    results = []
    for name, manifest in list(sets.items())[1:]:
        cosine = (vector["videos"] * vector[name]).sum(axis=1)
        size = sum(manifest.table.column("video_bytes").to_pylist())
        sides: dict[str, Any] = {"videos": timings["videos"], name: timings[name]}
        sides["bytes ÷ those of the videos"] = f"{size / video_bytes:.1f}"
        sides["bytes of a sample"] = f"{size // NUM_VIDEOS:,}"
        sides["cosine of the vectors with those of the videos"] = str(Spread.of(cosine.tolist()))
        sides["lowest"] = f"{cosine.min():.5f}"
        results.append(
            Result(
                goal=1,
                what=f"{name}: samples/s of a training visit, 12 frames of {num_frames} at 320 × 240, ÷ videos",
                wanted="no goal",
                figures=ratios(timings["videos"], timings[name]),
                sides=sides,
            )
        )
    return results


def frames_of(manifest: Manifest, preprocess: Preprocess, *, jitter: bool) -> np.ndarray:
    """uint8 [samples, F, 3, H, W]."""
    samples = zip(
        manifest.table.to_pylist(),
        read_videos(manifest, manifest.take(range(manifest.num_rows)).to_pylist()),
        strict=True,
    )
    frames = []
    for number, (record, video) in enumerate(samples):
        rng = np.random.default_rng(number) if jitter else None
        frames.append(decode_sample(record, video, preprocess=preprocess, rng=rng))
    return np.stack(frames)


def vectors(frame_BF3HW: np.ndarray) -> np.ndarray:
    """float32 [B, D], unit length: of a model with random weights, for want of trained ones."""
    torch.manual_seed(0)
    model = FPig(FPigConfig(backbone=Backbone(name="ViT-B-32"), preprocess=Preprocess())).eval()
    with torch.inference_mode():
        vector_BD = model.encode_video(torch.from_numpy(frame_BF3HW[:1])).fused_BD
    return torch.nn.functional.normalize(vector_BD, dim=-1).numpy()


if __name__ == "__main__":
    main()
