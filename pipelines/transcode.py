"""Make a video small and quick to enter: H.264 in mp4 with short groups of pictures, the same bytes every time.

The bytes come from outside: as in ``decode``, the demuxer is forced, nothing else is opened, and sizes are limited.
"""

import dataclasses
import io
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from av.video.stream import VideoStream

from pipelines.decode import DEMUXERS
from pipelines.limits import VideoLimits
from pipelines.quarantine import SampleError
from pipelines.x264 import repeatable

_TIME_BASE = Fraction(1, 90_000)
# Without the last two, swscale's result depends on what the processor can do.
_SCALING = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
_STREAM_ERRORS = (FFmpegError, ValueError, MemoryError)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoding:
    """What videos become. Sound is left out, and pictures stand upright."""

    short_side: int = 256
    """Pixels of the shorter side; smaller videos keep their size."""
    fps: float = 0.0
    """Largest number of frames in a second; 0 keeps all frames. Frames that stay keep their times."""
    gop: int = 12
    """Frames from one key frame to the next."""
    crf: int = 23
    """Quality of x264: lower is better and larger."""
    preset: str = "veryfast"
    """Preset of x264: slower ones make smaller files."""

    def __post_init__(self) -> None:
        if self.short_side < 16 or self.fps < 0 or self.gop < 1 or not 0 <= self.crf <= 51:
            raise ValueError(
                f"got short_side={self.short_side}, fps={self.fps}, gop={self.gop}, crf={self.crf}; "
                "wanted at least 16 pixels, 0 frames/s and 1 frame, and a crf from 0 to 51"
            )


def transcode(
    data: bytes,
    *,
    suffix: str,
    encoding: Encoding,
    start_s: float | None = None,
    end_s: float | None = None,
    limits: VideoLimits = VideoLimits(),
) -> bytes:
    """An mp4 of the video, or of the frames whose time from the first one lies in [start_s, end_s) seconds.

    A segment between two frames gives the frame that is on screen at its start.

    Raises:
        SampleError: a code of the ``decode`` stage.
    """
    demuxer = DEMUXERS.get(suffix.lower())
    if demuxer is None:
        raise SampleError("bad_suffix", f"got {suffix!r}, wanted one of {', '.join(DEMUXERS)}")
    options = {"protocol_whitelist": "none", "max_pixels": str(limits.max_pixels)}
    try:
        source = av.open(io.BytesIO(data), mode="r", format=demuxer, options=options, metadata_errors="replace")
    except FFmpegError as error:
        raise SampleError.of("bad_container", error) from error
    with source:
        if not source.streams.video:
            raise SampleError("no_stream")
        timed = _timed_frames(source, limits)
        kept = _thin(_cut(timed, start_s, end_s), encoding.fps)
        return _encode(((time_s, _small(frame, encoding.short_side)) for time_s, frame in kept), encoding)


def _timed_frames(source: InputContainer, limits: VideoLimits) -> Iterator[tuple[float, VideoFrame]]:
    """Frames in display order with their times in seconds, the first at 0."""
    stream = source.streams.video[0]
    codec = stream.codec_context
    if codec is None:
        raise SampleError("no_decoder")
    codec.thread_count = 1
    codec.thread_type = "NONE"
    first_s, rate = None, float(stream.average_rate or 25)
    try:
        for number, frame in enumerate(_frames(source, stream)):
            if frame.width * frame.height > limits.max_pixels:
                raise SampleError("too_large", f"{frame.width}×{frame.height} pixels, limit {limits.max_pixels}")
            now_s = number / rate if frame.time is None else frame.time
            first_s = now_s if first_s is None else first_s
            if number >= limits.max_frames or now_s - first_s > limits.max_seconds:
                raise SampleError("too_large", f"over {limits.max_frames} frames or {limits.max_seconds:.0f} s")
            yield now_s - first_s, frame
    except _STREAM_ERRORS as error:
        raise SampleError.of("bad_stream", error) from error
    if first_s is None:
        raise SampleError("no_frames")


def _frames(source: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    for packet in source.demux(stream):
        if packet.is_corrupt:
            raise SampleError("bad_stream", "the container ends inside a packet")
        yield from packet.decode()


def _cut(
    timed: Iterator[tuple[float, VideoFrame]], start_s: float | None, end_s: float | None
) -> Iterator[tuple[float, VideoFrame]]:
    """The frames of the segment; what comes after it is not decoded."""
    before, shown, last_s, step_s = None, False, 0.0, 0.0
    for time_s, frame in timed:
        step_s, last_s = time_s - last_s, time_s
        if start_s is not None and time_s < start_s - 1e-6:
            before = (time_s, frame)
        elif end_s is None or time_s < end_s - 1e-6:
            yield time_s, frame
            shown = True
        else:
            break
    if not shown and before and start_s is not None:
        if start_s > last_s + step_s:
            raise SampleError("empty_segment", f"starts at {start_s} s, the video ends at {last_s + step_s:.3f} s")
        yield before


def _thin(timed: Iterator[tuple[float, VideoFrame]], fps: float) -> Iterator[tuple[float, VideoFrame]]:
    """The first frame of every 1 / fps seconds."""
    next_tick = 0
    for time_s, frame in timed:
        tick = int(time_s * fps + 1e-6)
        if not fps or tick >= next_tick:
            yield time_s, frame
            next_tick = tick + 1


def _small(frame: VideoFrame, short_side: int) -> VideoFrame:
    """Upright, as yuv420p with even sides."""
    scale = min(1.0, short_side / min(frame.width, frame.height))
    width, height = (max(2, round(side * scale / 2) * 2) for side in (frame.width, frame.height))
    rgb = frame.reformat(width=width, height=height, format="rgb24", interpolation=_SCALING, threads=1)
    rgb_HW3 = rgb.to_ndarray().astype(np.uint8, copy=False)
    upright_HW3 = np.ascontiguousarray(np.rot90(rgb_HW3, k=round(frame.rotation / 90) % 4))
    upright = VideoFrame.from_ndarray(upright_HW3, format="rgb24")
    return upright.reformat(format="yuv420p", interpolation=_SCALING, threads=1)


def _encode(timed: Iterator[tuple[float, VideoFrame]], encoding: Encoding) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, mode="w", format="mp4") as container:
        stream = None
        first_s, last_pts = 0.0, -1
        for time_s, frame in timed:
            if stream is None:
                stream, first_s = _add_stream(container, frame, encoding), time_s
            elif (frame.width, frame.height) != (stream.width, stream.height):
                raise SampleError("bad_stream", "the size of the pictures changes")
            last_pts = max(last_pts + 1, round((time_s - first_s) / _TIME_BASE))
            frame.pts, frame.time_base = last_pts, _TIME_BASE
            container.mux(stream.encode(frame))
        if stream is None:
            raise SampleError("no_frames")
        container.mux(stream.encode())
    return buffer.getvalue()


def _add_stream(container: OutputContainer, frame: VideoFrame, encoding: Encoding) -> VideoStream:
    # The rate only guides x264; the time stamps tell when frames are shown.
    stream = container.add_stream("libx264", rate=round(encoding.fps) or 25)
    stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, "yuv420p"
    codec = stream.codec_context
    codec.time_base = _TIME_BASE
    codec.gop_size = encoding.gop
    codec.max_b_frames = 0
    stream.options = {
        "crf": str(encoding.crf),
        "preset": encoding.preset,
        "x264-params": repeatable(f"keyint={encoding.gop}", f"min-keyint={encoding.gop}", "scenecut=0"),
    }
    return stream
