"""Goal 14: F-Pig's video encoder beside open_clip's own vision tower on the same frames, per operation."""

from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import Result, alternate, is_quick, machine, ratios, save
from fpig_core.backbone import Backbone, build_clip
from fpig_core.fpig import FPig, FPigConfig
from fpig_core.normalise import normalise
from fpig_core.preprocess import Preprocess


def main() -> None:
    quick, where = is_quick(), machine()
    torch.set_num_threads(1)  # Two threads that wait for each other time the neighbours' work, not ours.
    results = forward("tiny", size=32, batch=8, calls=1 if quick else 5)
    if not quick:
        results += forward("ViT-B-32", size=224, batch=1, calls=1)
    save("model", results, machine=where, quick=quick)


def forward(name: str, *, size: int, batch: int, calls: int, repeats: int = 5) -> list[Result]:
    """Rates of operations: the tower with CLIP-ViP attention, and all of ``encode_video``, ÷ open_clip's tower."""
    torch.manual_seed(0)
    preprocess = Preprocess(size=size)
    backbone = Backbone(name=name)
    model = FPig(FPigConfig(backbone=backbone, preprocess=preprocess)).eval()
    visual = build_clip(backbone).visual.eval()
    frame_BF3HW = torch.randint(0, 256, (batch, preprocess.num_frames, 3, size, size), dtype=torch.uint8)
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
            what=f"{name}, batch {batch} × {preprocess.num_frames} frames, float32, one thread: "
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


def count_flops(call: Callable[[], object]) -> int:
    """Operations of one call. With gradients on, for the fused attention of inference is not counted."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def _repeated(call: Callable[[], object], calls: int) -> Callable[[], None]:
    def run() -> None:
        with torch.inference_mode():
            for _ in range(calls):
                call()

    return run


if __name__ == "__main__":
    main()
