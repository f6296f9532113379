"""What the header of a video tells: codec, size, length. No frame is shown, and few of the bytes are read."""

import io
import os
from collections.abc import Callable
from fractions import Fraction
from typing import IO, NamedTuple

import av
from av.container import InputContainer
from av.error import FFmpegError
from PIL import Image

from pipelines.decode import DEMUXERS
from pipelines.images import IMAGE_FORMATS
from pipelines.limits import VideoLimits
from pipelines.quarantine import OK

MAX_PROBE_BYTES = 64 << 20
BUFFER_BYTES = 128 << 10
_OPTIONS = {"protocol_whitelist": "none", "probesize": str(1 << 20), "analyzeduration": "2000000"}
_ERRORS = (FFmpegError, ValueError, LookupError, MemoryError, OSError, SyntaxError)


class Probe(NamedTuple):
    """Values of the columns that ``PROBED_SCHEMA`` adds, by name."""

    codec: str = ""
    width: int | None = None
    height: int | None = None
    duration_s: float | None = None
    probe: str = ""


def probe_media(
    read: Callable[[int, int], bytes], *, num_bytes: int, suffix: str, limits: VideoLimits = VideoLimits()
) -> Probe:
    """Probe a video or image of ``num_bytes``, of which ``read(start, length)`` gives ranges.

    Nothing is raised for what is wrong with it: ``probe`` is then a reason code of the ``decode`` stage.
    """
    if num_bytes > limits.max_bytes:
        return Probe(probe="too_large")
    file = io.BufferedReader(RangeWindow(read, num_bytes, max_bytes=MAX_PROBE_BYTES), BUFFER_BYTES)
    if suffix in IMAGE_FORMATS:
        return _probe_image(file, suffix, limits)
    options = _OPTIONS | {"max_pixels": str(limits.max_pixels)}
    try:
        container = av.open(file, mode="r", format=DEMUXERS[suffix], options=options, metadata_errors="replace")
    except _ERRORS:
        return Probe(probe="bad_container")
    with container:
        return _probe_video(container, limits)


def _probe_video(container: InputContainer, limits: VideoLimits) -> Probe:
    if not container.streams.video:
        return Probe(probe="no_stream")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        return Probe(probe="no_decoder")
    seconds = _seconds(stream.duration, stream.time_base) or _seconds(container.duration, Fraction(1, av.time_base))
    found = Probe(stream.codec_context.name, stream.width, stream.height, seconds, OK)
    if stream.width * stream.height > limits.max_pixels or (seconds or 0) > limits.max_seconds:
        return found._replace(probe="too_large")
    return found


def _probe_image(file: IO[bytes], suffix: str, limits: VideoLimits) -> Probe:
    form = IMAGE_FORMATS[suffix]
    try:
        with Image.open(file, formats=[form]) as image:
            width, height = image.size
    except Image.DecompressionBombError:
        return Probe(probe="too_large")
    except _ERRORS:
        return Probe(probe="bad_image")
    is_large = width * height > limits.max_pixels
    return Probe(form.lower(), width, height, None, "too_large" if is_large else OK)


def _seconds(count: int | None, unit: Fraction | None) -> float | None:
    return float(count * unit) if count and count > 0 and unit else None


class RangeWindow(io.RawIOBase):
    """A seekable file of ``num_bytes`` over ranges, which ends once ``max_bytes`` of it were read."""

    def __init__(self, read: Callable[[int, int], bytes], num_bytes: int, *, max_bytes: int):
        self._read, self._num_bytes = read, num_bytes
        self._at, self._left = 0, max_bytes

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._num_bytes}[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        length = max(0, min(len(buffer), self._num_bytes - self._at, self._left))
        data = self._read(self._at, length) if length else b""
        buffer[: len(data)] = data
        self._at += len(data)
        self._left -= len(data)
        return len(data)
