"""Small videos written on the fly, and their complete decode as an oracle."""

import io
from fractions import Fraction
from typing import Any

import av
import numpy as np
from PIL import Image

from pipelines.x264 import repeatable


def make_video(
    *,
    num_frames=30,
    height=48,
    width=64,
    fmt="mp4",
    codec="libx264",
    fps=10,
    gop=8,
    b_frames=2,
    seed=0,
    options=None,
    times=None,
):
    """Bytes of a video whose frames all differ. ``options`` of the encoder; ``times`` of the frames, in ticks."""
    rng = np.random.default_rng(seed)
    base_HW3 = rng.integers(0, 256, (height, width, 3))
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=fmt) as container:
        stream: Any = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size = gop
        stream.options = _options(codec, **(options or {}))
        stream.codec_context.max_b_frames = b_frames
        for number in range(num_frames):
            image = np.roll(base_HW3, 2 * number, axis=1).astype(np.uint8)
            image[:, : 1 + number % width] = (number * 8) % 256
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = number if times is None else times[number]
            frame.time_base = Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def _options(codec, **options):
    """Equal frames become equal bytes."""
    if codec == "libx264":
        return options | {"x264-params": repeatable(*filter(None, [options.get("x264-params")]))}
    return {"x265-params": "log-level=none"} | options if codec == "libx265" else options


def all_frames(data):
    """uint8 [N, H, W, 3]: every frame of the video at its own size, and their times in seconds."""
    with av.open(io.BytesIO(data), "r") as container:
        frames = list(container.decode(video=0))
        return np.stack([f.to_ndarray(format="rgb24") for f in frames]), [f.time for f in frames]


def shrink(frames, numbers, size):
    """uint8 [N, 3, size, size] of the frames with these numbers, the slow way: every frame on its own."""
    images = [Image.fromarray(frames[n]).resize((size, size), Image.Resampling.BICUBIC) for n in numbers]
    return np.stack([np.asarray(image).transpose(2, 0, 1) for image in images])
