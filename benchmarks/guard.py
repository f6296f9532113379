"""What it costs to decode in a process of its own: the same videos decoded there and here."""

import dataclasses
import time
from typing import Any

import numpy as np

from benchmarks.clips import make_clip
from benchmarks.measure import Result, alternate, is_quick, machine, own_cpu_s, ratios, save
from fpig_core.preprocess import Preprocess
from pipelines.decode import decode_sample
from pipelines.guard import run_guarded
from pipelines.guarded import decode_guarded

ROW: dict[str, Any] = {"video_suffix": "mp4", "start_s": None, "end_s": None}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """``num_videos`` times the same clip in one repeat."""

    num_frames: int
    side: tuple[int, int]
    num_videos: int


CLIPS = (Clip(num_frames=24, side=(64, 64), num_videos=100), Clip(num_frames=250, side=(320, 240), num_videos=20))


def main() -> None:
    quick, where = is_quick(), machine()
    results = [guarding(clip, repeats=1 if quick else 7) for clip in CLIPS]
    save("guard", results, machine=where, quick=quick)


def guarding(clip: Clip, *, repeats: int) -> Result:
    width, height = clip.side
    data = make_clip(gop=250, num_frames=clip.num_frames, width=width, height=height)
    preprocess = Preprocess()

    def here() -> None:
        for _ in range(clip.num_videos):
            decode_sample(ROW, data, preprocess=preprocess)

    def guarded() -> None:
        for _ in range(clip.num_videos):
            decode_guarded(ROW, data, preprocess=preprocess)

    np.testing.assert_array_equal(
        decode_sample(ROW, data, preprocess=preprocess), decode_guarded(ROW, data, preprocess=preprocess)
    )
    timings = alternate({"here": here, "guarded": guarded}, repeats=repeats, cpu_clock=both_cpu_s)
    return Result(
        goal=1,
        what=f"decode {preprocess.num_frames} of {clip.num_frames} frames at {width} × {height}, "
        f"{clip.num_videos} times: time guarded ÷ time in this process",
        wanted="no goal",
        figures=ratios(timings["guarded"], timings["here"]),
        sides=dict(timings),
    )


def both_cpu_s() -> float:
    """CPU time of this process and of its child."""
    return time.process_time() + float(run_guarded(own_cpu_s, b""))


if __name__ == "__main__":
    main()
