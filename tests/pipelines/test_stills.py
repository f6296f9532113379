"""A still is the frame on screen in the middle of the segment, by a complete decode."""

import io

import av
import numpy as np
import pytest
from PIL import Image

from pipelines.limits import VideoLimits
from pipelines.media import STILL_LIMITS
from pipelines.quarantine import SampleError
from pipelines.stills import middle_frame
from tests.pipelines.videos import make_video

NUM_FRAMES, FPS = 30, 10


@pytest.fixture(scope="module")
def video():
    return make_video(num_frames=NUM_FRAMES, fps=FPS, gop=8)


def still(data, *, start_s=None, end_s=None, suffix="mp4", side_px=64, limits=STILL_LIMITS):
    spans = []

    def read(start, length):
        spans.append((start, start + length))
        return data[start : start + length]

    jpeg = middle_frame(
        read, num_bytes=len(data), suffix=suffix, start_s=start_s, end_s=end_s, side_px=side_px, limits=limits
    )
    return np.asarray(Image.open(io.BytesIO(jpeg))).astype(float)


def frames_of(data):
    with av.open(io.BytesIO(data), "r") as container:
        frames = [(frame.time, frame.to_ndarray(format="rgb24").astype(float)) for frame in container.decode(video=0)]
    return [(time - frames[0][0], picture) for time, picture in frames]


@pytest.mark.parametrize("span", [(None, None), (0.5, 1.3), (2.0, None), (None, 0.9), (0.0, 0.05), (2.85, 3.0)])
def test_it_is_the_frame_in_the_middle(video, span):
    start_s, end_s = span
    middle_s = ((start_s or 0) + (NUM_FRAMES / FPS if end_s is None else end_s)) / 2
    shown = still(video, start_s=start_s, end_s=end_s)
    wanted = max(number for number, (time, _) in enumerate(frames_of(video)) if time <= middle_s + 1e-6)
    differences = [np.abs(shown - picture).mean() for _, picture in frames_of(video)]
    assert int(np.argmin(differences)) == wanted


@pytest.mark.parametrize("fmt", ["matroska", "mov", "avi"])
def test_other_containers(fmt):
    data = make_video(num_frames=12, fmt=fmt, codec="mpeg4" if fmt == "avi" else "libx264", b_frames=0)
    suffix = {"matroska": "mkv"}.get(fmt, fmt)
    assert still(data, suffix=suffix).shape == (48, 64, 3)


def test_the_longer_side_is_bounded(video):
    assert still(video, side_px=32).shape == (24, 32, 3)


@pytest.mark.parametrize(
    ("data", "suffix", "code"),
    [(b"no video at all" * 9, "mp4", "bad_container"), (b"", "mp4", "bad_container"), (b"x", "exe", "bad_suffix")],
)
def test_what_is_no_video_is_rejected(data, suffix, code):
    with pytest.raises(SampleError) as error:
        still(data, suffix=suffix)
    assert error.value.code == code


def test_too_many_pixels_are_rejected(video):
    with pytest.raises(SampleError) as error:
        still(video, limits=VideoLimits(max_pixels=64))
    assert error.value.code in ("too_large", "bad_container", "bad_stream")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.97])
def test_a_cut_video_gives_a_frame_or_a_reason(video, share):
    try:
        shown = still(video[: int(len(video) * share)])
    except SampleError as error:
        shown = error
    assert shown.stage == "decode" if isinstance(shown, SampleError) else shown.ndim == 3
