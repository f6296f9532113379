"""One frame of a video as a small JPEG, from the few bytes around it."""

import io
from collections.abc import Callable

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from PIL import Image

from pipelines.decode import DEMUXERS
from pipelines.limits import VideoLimits
from pipelines.probe import BUFFER_BYTES, RangeWindow
from pipelines.quarantine import SampleError

MAX_STILL_BYTES = 64 << 20
MAX_DECODED = 600
JPEG_QUALITY = 80
_ERRORS = (FFmpegError, ValueError, LookupError, OSError)


def middle_frame(
    read: Callable[[int, int], bytes],
    *,
    num_bytes: int,
    suffix: str,
    start_s: float | None,
    end_s: float | None,
    side_px: int,
    limits: VideoLimits,
) -> bytes:
    """The frame on screen in the middle of a segment, in seconds from the first frame, or of the whole video.

    ``read(start, length)`` gives ranges of a video of ``num_bytes``. At most ``MAX_STILL_BYTES`` are read and
    ``MAX_DECODED`` frames decoded; if the wanted one lies beyond, it is the last one before that.

    Returns:
        a JPEG whose longer side has at most ``side_px`` pixels.

    Raises:
        SampleError: a code of the ``decode`` stage.
    """
    if suffix not in DEMUXERS:
        raise SampleError("bad_suffix", f"got {suffix!r}, wanted one of {', '.join(DEMUXERS)}")
    file = io.BufferedReader(RangeWindow(read, num_bytes, max_bytes=MAX_STILL_BYTES), BUFFER_BYTES)
    options = {"protocol_whitelist": "none", "max_pixels": str(limits.max_pixels)}
    try:
        container = av.open(file, mode="r", format=DEMUXERS[suffix], options=options, metadata_errors="replace")
    except _ERRORS as error:
        raise SampleError.of("bad_container", error) from error
    with container:
        return to_jpeg(_upright(_find_middle(container, start_s, end_s, limits)), side_px=side_px)


def to_jpeg(frame_HW3: np.ndarray, *, side_px: int) -> bytes:
    """A uint8 frame as a JPEG whose longer side has at most ``side_px`` pixels."""
    picture = Image.fromarray(frame_HW3)
    picture.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    sink = io.BytesIO()
    picture.save(sink, "JPEG", quality=JPEG_QUALITY)
    return sink.getvalue()


def _find_middle(
    container: InputContainer, start_s: float | None, end_s: float | None, limits: VideoLimits
) -> VideoFrame:
    if not container.streams.video:
        raise SampleError("no_stream")
    stream = container.streams.video[0]
    codec, unit = stream.codec_context, float(stream.time_base or 0)
    if codec is None:
        raise SampleError("no_decoder")
    if codec.width * codec.height > limits.max_pixels:
        raise SampleError("too_large", f"{codec.width}×{codec.height} pixels, limit {limits.max_pixels}")
    codec.thread_count = 1
    codec.thread_type = "NONE"
    first_s = (stream.start_time or 0) * unit
    duration_s = (stream.duration or 0) * unit or (container.duration or 0) / av.time_base
    begin_s = start_s or 0.0
    target_s = first_s + (begin_s + (duration_s if end_s is None else end_s)) / 2 if duration_s or end_s else first_s
    if unit and target_s > first_s:
        try:
            container.seek(int(target_s / unit), stream=stream)
        except _ERRORS:
            container.seek(0)
    found: VideoFrame | None = None
    try:
        for number, frame in enumerate(container.decode(stream)):
            if found is None or frame.time is None or frame.time <= target_s + 1e-6:
                found = frame
            if number >= MAX_DECODED or frame.time is None or frame.time >= target_s:
                break
    except _ERRORS as error:
        # What is shown before the damage is better than nothing.
        if found is None:
            raise SampleError.of("bad_stream", error) from error
    if found is None:
        raise SampleError("no_frames")
    if found.width * found.height > limits.max_pixels:
        raise SampleError("too_large", f"{found.width}×{found.height} pixels, limit {limits.max_pixels}")
    return found


def _upright(frame: VideoFrame) -> np.ndarray:
    """uint8 [H, W, 3]."""
    try:
        rgb_HW3 = frame.reformat(format="rgb24", threads=1).to_ndarray()
    except _ERRORS as error:
        raise SampleError.of("bad_stream", error) from error
    return np.ascontiguousarray(np.rot90(rgb_HW3, k=round(frame.rotation / 90) % 4))
