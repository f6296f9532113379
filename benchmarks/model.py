"""How fast every method encodes and trains, beside open_clip's own vision tower on the same frames.

Goal 14 compares operations per second: of F-Pig's video encoder, and of all of ``encode_video``, with the tower's.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.measure import Result, alternate, machine, ratios, save
from cluster.optim import Optim, make_optimizer
from fpig_core.backbone import Backbone, build_clip, tokenize
from fpig_core.eercf import EercfConfig
from fpig_core.flops import count_flops
from fpig_core.fpig import FPig, FPigConfig
from fpig_core.models import build_model
from fpig_core.normalise import normalise
from fpig_core.preprocess import Preprocess
from fpig_core.rows import Noise
from fpig_core.speed import compile_blocks
from fpig_core.t2v2t import T2V2TConfig
from fpig_core.training_step import TrainingStep
from fpig_core.two_tower import TwoTowerConfig

FRAMES = 12
FRAME_SIZE = {"tiny": 32, "ViT-B-32": 224, "ViT-B-16": 224, "ViT-L-14": 224}
# Videos at once: forward and training.
CPU_BATCH = {"tiny": (16, 16), "ViT-B-32": (2, 2), "ViT-B-16": (1, 2), "ViT-L-14": (1, 2)}
GPU_BATCH = {"tiny": (256, 256), "ViT-B-32": (128, 64), "ViT-B-16": (48, 24), "ViT-L-14": (16, 8)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speed:
    """Median time of one way to handle a batch, and what it means."""

    size: str
    what: str
    num_videos: int
    seconds: float
    flop: int
    peak: float

    def markdown(self) -> str:
        rate = self.flop / self.seconds
        return (
            f"| {self.size} | {self.what} | {self.num_videos} | {self.flop / self.num_videos / 1e9:.1f} "
            f"| {self.num_videos / self.seconds:.4g} | {rate / 1e12:.3g} | {rate / self.peak:.0%} |"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Device:
    """Where the figures come from: matrix products in ``dtype``, blocks compiled or not."""

    name: str
    dtype: torch.dtype
    is_compiled: bool

    def run(self, call: Callable[[], object]) -> None:
        """One call, finished when this returns."""
        with torch.autocast(self.name, self.dtype, enabled=self.dtype != torch.float32):
            call()
        if self.name == "cuda":
            torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a few seconds on tiny inputs; the figures mean nothing")
    parser.add_argument("--sizes", nargs="+", choices=list(FRAME_SIZE), help="by default all on a GPU, two on a CPU")
    args = parser.parse_args()
    is_gpu, where = torch.cuda.is_available(), machine()
    device = Device(
        name="cuda" if is_gpu else "cpu", dtype=torch.bfloat16 if is_gpu else torch.float32, is_compiled=is_gpu
    )
    torch.set_num_threads(1)  # Two threads that wait for each other time the neighbours' work, not ours.
    sizes = ["tiny"] if args.quick else args.sizes or (list(FRAME_SIZE) if is_gpu else ["tiny", "ViT-B-32"])
    repeats = 1 if args.quick else 5
    peak = matrix_peak(device)
    print(f"{device.name}, {device.dtype}: matrix products reach {peak / 1e12:.4g} TFLOP/s")
    print("| size | what | batch | GFLOP a video | videos/s | TFLOP/s | of matrix products |")
    speeds = []
    for size in sizes:
        for speed in measure_size(size, device, peak=peak, repeats=repeats):
            speeds.append(speed)
            print(speed.markdown(), flush=True)
    results = [] if is_gpu else [result for size in sizes for result in beside_open_clip(size, repeats=repeats)]
    save("model", results, machine=where | {"peak": peak, "device": device.name}, quick=args.quick, more=speeds)


def matrix_peak(device: Device, *, width: int = 2048) -> float:
    """Operations per second of one large matrix product."""
    width = width * 4 if device.name == "cuda" else width
    a = torch.randn(width, width, device=device.name, dtype=device.dtype)
    seconds = median_seconds(lambda: a @ a, device, repeats=7)
    return 2 * width**3 / seconds


def measure_size(size: str, device: Device, *, peak: float, repeats: int) -> Iterator[Speed]:
    """open_clip's tower, then forward and training step of every method."""
    forward_batch, train_batch = (GPU_BATCH if device.name == "cuda" else CPU_BATCH)[size]
    pixels = FRAME_SIZE[size]
    preprocess = Preprocess(num_frames=FRAMES, size=pixels)
    backbone = Backbone(name=size, context_length=32)
    frame_BF3HW = torch.randint(0, 256, (forward_batch, FRAMES, 3, pixels, pixels), dtype=torch.uint8).to(device.name)

    def told(what: str, num_videos: int, call: Callable[[], object]) -> Speed:
        flop = count_flops(lambda: device.run(call))
        return Speed(
            size=size,
            what=what,
            num_videos=num_videos,
            seconds=median_seconds(call, device, repeats=repeats),
            flop=flop,
            peak=peak,
        )

    visual: Any = build_clip(backbone).visual.eval().to(device.name)
    normal_b3HW = normalise(frame_BF3HW, preprocess).flatten(0, 1)
    yield told("open_clip's tower, forward", forward_batch, without_gradients(lambda: visual(normal_b3HW)))
    for name, config in configs(backbone, preprocess).items():
        torch.manual_seed(0)
        model: Any = build_model(config).to(device.name)
        if device.is_compiled:
            compile_blocks(model)
        model.eval()
        yield told(f"{name}, forward", forward_batch, without_gradients(lambda m=model: m.encode_video(frame_BF3HW)))
        yield told(f"{name}, training step", train_batch, training_step(model.train(), train_batch, device))


def configs(backbone: Backbone, preprocess: Preprocess) -> dict[str, Any]:
    common: dict[str, Any] = {"backbone": backbone, "preprocess": preprocess}
    fusion_width = 96 if backbone.name == "tiny" else 768
    return {
        "mean_pool": TwoTowerConfig(**common, pooling="mean_pool"),
        "vip_mean": TwoTowerConfig(**common, pooling="vip_mean"),
        "fpig": FPigConfig(**common),
        "eercf": EercfConfig(**common),
        "t2v2t": T2V2TConfig(**common, fusion_width=fusion_width),
    }


def training_step(model: Any, num_videos: int, device: Device) -> Callable[[], None]:
    """Losses, gradients and the optimiser's step of one batch that is on the device already."""
    preprocess = model.config.preprocess
    shape = (num_videos, FRAMES, 3, preprocess.size, preprocess.size)
    frames = torch.randint(0, 256, shape, dtype=torch.uint8).to(device.name)
    captions = [f"a video with the number {number}" for number in range(num_videos)]
    words = tokenize(captions, context_length=model.config.backbone.context_length).to(device.name)
    valid = torch.ones(num_videos, dtype=torch.bool, device=device.name)
    step = TrainingStep(model)
    optimizer = make_optimizer(step, Optim())

    def run() -> None:
        step(frames, words, valid, noise=Noise(seed=0))["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def without_gradients(call: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        with torch.no_grad():
            call()

    return run


def median_seconds(call: Callable[[], object], device: Device, *, repeats: int) -> float:
    """Wall time of one call, after two that do not count."""
    times = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        device.run(call)
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def beside_open_clip(size: str, *, repeats: int) -> list[Result]:
    """Goal 14 on a CPU: rates of operations of the encoder and of all of ``encode_video`` ÷ open_clip's tower."""
    torch.manual_seed(0)
    batch, calls = (8, 5) if size == "tiny" else (1, 1)
    preprocess = Preprocess(num_frames=FRAMES, size=FRAME_SIZE[size])
    backbone = Backbone(name=size)
    model = FPig(FPigConfig(backbone=backbone, preprocess=preprocess)).eval()
    visual: Any = build_clip(backbone).visual.eval()
    frame_BF3HW = torch.randint(0, 256, (batch, FRAMES, 3, preprocess.size, preprocess.size), dtype=torch.uint8)
    normal_BF3HW = normalise(frame_BF3HW, preprocess)
    normal_b3HW = normal_BF3HW.flatten(0, 1)
    ways: dict[str, Callable[[], object]] = {
        "open_clip": lambda: visual(normal_b3HW),
        "tower": lambda: model.video(normal_BF3HW),
        "whole": lambda: model.encode_video(frame_BF3HW),
    }
    flops = {way: count_flops(call) for way, call in ways.items()}
    timings = alternate({way: _repeated(call, calls) for way, call in ways.items()}, repeats=repeats)
    labels = {"tower": "VipEncoder", "whole": "encode_video (uint8 frames to fused vector)"}
    return [
        Result(
            goal=14,
            what=f"{size}, batch {batch} × {FRAMES} frames, float32, one thread: "
            f"operations per second of {label} ÷ open_clip's tower",
            wanted="wall: floor 0.85, goal 1.0",
            figures=ratios(timings["open_clip"], timings[way], factor=flops[way] / flops["open_clip"]),
            sides={
                "open_clip": timings["open_clip"],
                "ours": timings[way],
                "GFLOP open_clip and ours": f"{flops['open_clip'] / 1e9:.2f}, {flops[way] / 1e9:.2f}",
            },
        )
        for way, label in labels.items()
    ]


def _repeated(call: Callable[[], object], calls: int) -> Callable[[], None]:
    def run() -> None:
        with torch.inference_mode():
            for _ in range(calls):
                call()

    return run


if __name__ == "__main__":
    main()
