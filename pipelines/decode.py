"""From the bytes of one video to the frames a model sees.

The bytes come from outside: the demuxer is forced by the suffix, nothing but the given bytes is opened, one thread
decodes, and pixels, frames, seconds and bytes are limited.
"""

import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from fpig_core.frames import jittered_indices, uniform_indices
from fpig_core.preprocess import Preprocess
from pipelines.frame_file import unpack_frames
from pipelines.images import IMAGE_FORMATS, decode_image
from pipelines.limits import VideoLimits
from pipelines.pictures import plan_runs, read_pictures
from pipelines.quarantine import SampleError
from pipelines.resize import to_model_size
from pipelines.suffixes import FRAMES_SUFFIX

DEMUXERS = {"mp4": "mov", "mov": "mov", "mkv": "matroska", "webm": "matroska", "avi": "avi"}
_STREAM_ERRORS = (FFmpegError, ValueError, MemoryError)


def decode_sample(
    record: Mapping[str, Any],
    video: bytes | SampleError,
    *,
    preprocess: Preprocess,
    rng: np.random.Generator | None = None,
    limits: VideoLimits = VideoLimits(),
) -> np.ndarray:
    """``decode_frames`` of a manifest row and of what ``read_videos`` gave for it; an image is a video of one frame.

    Raises:
        SampleError: the one in place of a video, or a code of the ``decode`` stage.
    """
    if isinstance(video, SampleError):
        raise video
    suffix = record["video_suffix"]
    if suffix == FRAMES_SUFFIX:
        return unpack_frames(video, preprocess=preprocess, rng=rng)
    if suffix in IMAGE_FORMATS:
        return decode_image(video, suffix=suffix, preprocess=preprocess, limits=limits)
    return decode_frames(
        video,
        suffix=suffix,
        preprocess=preprocess,
        start_s=record["start_s"],
        end_s=record["end_s"],
        rng=rng,
        limits=limits,
    )


def decode_frames(
    data: bytes,
    *,
    suffix: str,
    preprocess: Preprocess,
    start_s: float | None = None,
    end_s: float | None = None,
    rng: np.random.Generator | None = None,
    limits: VideoLimits = VideoLimits(),
) -> np.ndarray:
    """Frames chosen by number from a video, or from its segment [start_s, end_s) in seconds from its first frame.

    With ``rng`` the frame numbers are jittered (training), else they are uniform. The result equals taking the same
    numbers from a complete decode in display order. A damaged stream is rejected, not shown in part; damage in what
    the wanted frames do not need may go unseen, and what a decoder makes up for a lost reference may differ.

    Returns:
        uint8 [F, 3, H, W], contiguous.

    Raises:
        SampleError: a code of the ``decode`` stage.
    """
    demuxer = DEMUXERS.get(suffix.lower())
    if demuxer is None:
        raise SampleError("bad_suffix", f"got {suffix!r}, wanted one of {', '.join(DEMUXERS)}")
    if len(data) > limits.max_bytes:
        raise SampleError("too_large", f"{len(data)} bytes, limit {limits.max_bytes}")
    try:
        container = av.open(
            io.BytesIO(data),
            mode="r",
            format=demuxer,
            options={"protocol_whitelist": "none", "max_pixels": str(limits.max_pixels)},
            metadata_errors="replace",
        )
    except FFmpegError as error:
        raise SampleError.of("bad_container", error) from error
    with container:
        clip = _Clip(container, limits)

        def choose(time_N: np.ndarray) -> np.ndarray:
            first, last = _segment(time_N, start_s, end_s)
            count, num_frames = last - first, preprocess.num_frames
            numbers = uniform_indices(count, num_frames) if rng is None else jittered_indices(count, num_frames, rng)
            return first + numbers

        number_F = choose(clip.packet_times())
        frames = clip.take_selectively(number_F, preprocess)
        if frames is None:
            frames = clip.take(number_F, preprocess)
        if frames is None:
            # The decoder gives other frames than the packets promise (cut groups of pictures, edit lists): count them.
            number_F = choose(clip.frame_times())
            frames = clip.take(number_F, preprocess)
    if frames is None:
        raise SampleError("bad_stream", "two decodes of the stream give different frames")
    return frames


class _UnfitError(Exception):
    """The stream has to be decoded from front to back."""


class _Clip:
    """The video stream of an open container, demuxed once and decoded as often as needed."""

    def __init__(self, container: InputContainer, limits: VideoLimits):
        if not container.streams.video:
            raise SampleError("no_stream")
        self._limits = limits
        self._stream: VideoStream = container.streams.video[0]
        self._codec = self._stream.codec_context
        if self._codec is None:
            raise SampleError("no_decoder")
        self._codec.thread_count = 1
        self._codec.thread_type = "NONE"
        self._check_pixels(self._codec.width, self._codec.height)
        self._reorder_depth = self._codec.reorder_depth
        self._packets = self._demux(container)

    def packet_times(self) -> np.ndarray:
        """float64 [N] ascending display times in seconds, as the packets tell them, the first at 0."""
        stamps = [packet.dts if packet.pts is None else packet.pts for packet in self._packets if not packet.is_discard]
        return self._seconds(stamps)

    def frame_times(self) -> np.ndarray:
        """The same as the decoder tells it, at the price of a full decode."""
        return self._seconds([frame.pts for frame in self._decode(self._packets)])

    def take(self, number_F: np.ndarray, preprocess: Preprocess) -> np.ndarray | None:
        """uint8 [F, 3, H, W] of the frames with these numbers, or None if the decoder ends before the last of them."""
        wanted, last = set(number_F.tolist()), int(number_F.max())
        images: dict[int, np.ndarray] = {}
        for number, frame in enumerate(self._decode(self._packets)):
            if number in wanted:
                images[number] = self._show(frame, preprocess)
            if number == last:
                break
        if last not in images:
            return None
        return np.stack([images[number] for number in number_F.tolist()])

    def take_selectively(self, number_F: np.ndarray, preprocess: Preprocess) -> np.ndarray | None:
        """The same from the packets that these frames need, or None if the stream is not fit for it."""
        pictures = read_pictures(self._packets, self._codec)
        if pictures is None:
            return None
        shown = sorted(range(len(pictures)), key=lambda packet: pictures[packet].pts)
        packet_F = [shown[number] for number in number_F.tolist()]
        wanted = {pictures[packet].pts for packet in packet_F}
        images: dict[int, np.ndarray] = {}
        try:
            for run in plan_runs(pictures, set(packet_F)):
                for pts, frame in self._decode_strictly([self._packets[packet] for packet in run]):
                    if pts in wanted:
                        images[pts] = self._show(frame, preprocess)
        except _UnfitError:
            return None
        if len(images) < len(wanted):
            return None
        return np.stack([images[pictures[packet].pts] for packet in packet_F])

    def _show(self, frame: VideoFrame, preprocess: Preprocess) -> np.ndarray:
        self._check_pixels(frame.width, frame.height)
        try:
            return _to_model_size(frame, preprocess)
        except _STREAM_ERRORS as error:
            raise SampleError.of("bad_stream", error) from error

    def _demux(self, container: InputContainer) -> list[Packet]:
        try:
            demuxed = itertools.islice(container.demux(self._stream), self._limits.max_frames + 2)
            packets = [packet for packet in demuxed if packet.size]
        except FFmpegError as error:
            raise SampleError.of("bad_container", error) from error
        if not packets:
            raise SampleError("no_frames")
        if len(packets) > self._limits.max_frames:
            raise SampleError("too_large", f"over {self._limits.max_frames} frames")
        if any(packet.is_corrupt for packet in packets):
            raise SampleError("bad_stream", "the container ends inside a packet")
        return packets

    def _decode(self, packets: Sequence[Packet]) -> Iterator[VideoFrame]:
        """All frames of these packets in display order, as a new decoder shows them."""
        self._codec.flush_buffers()
        self._codec.reorder_depth = self._reorder_depth
        try:
            for packet in [*packets, None]:
                yield from self._codec.decode(packet)
        except _STREAM_ERRORS as error:
            raise SampleError.of("bad_stream", error) from error

    def _decode_strictly(self, packets: Sequence[Packet]) -> Iterator[tuple[int, VideoFrame]]:
        """The same with the time of each frame; _UnfitError unless the frames are sound, in order and one a packet."""
        last_pts: int | None = None
        count = 0
        try:
            for frame in self._decode(packets):
                pts = frame.pts
                if pts is None or (last_pts is not None and pts <= last_pts):
                    raise _UnfitError
                if frame.is_corrupt or frame.interlaced_frame:
                    raise _UnfitError
                last_pts, count = pts, count + 1
                yield pts, frame
        except SampleError as error:
            raise _UnfitError from error
        if count != len(packets):
            raise _UnfitError

    def _seconds(self, stamps: list[int | None]) -> np.ndarray:
        if not stamps:
            raise SampleError("no_frames")
        if any(stamp is None for stamp in stamps):
            rate = float(self._stream.average_rate or 25)
            return np.arange(len(stamps)) / rate
        time_N = np.sort(np.asarray(stamps, dtype=np.float64)) * float(self._stream.time_base or 0)
        time_N -= time_N[0]
        if time_N[-1] > self._limits.max_seconds:
            raise SampleError("too_large", f"{time_N[-1]:.0f} s, limit {self._limits.max_seconds:.0f} s")
        return time_N

    def _check_pixels(self, width: int, height: int) -> None:
        if width * height > self._limits.max_pixels:
            raise SampleError("too_large", f"{width}×{height} pixels, limit {self._limits.max_pixels}")


def _segment(time_N: np.ndarray, start_s: float | None, end_s: float | None) -> tuple[int, int]:
    """Frame numbers [first, last) shown in [start_s, end_s): at least the frame that is on screen at the start."""
    first, last, step = 0, len(time_N), float(np.diff(time_N).mean()) if len(time_N) > 1 else 0.0
    if start_s is not None:
        if start_s > time_N[-1] + step:
            raise SampleError("empty_segment", f"starts at {start_s} s, the video ends at {time_N[-1] + step:.3f} s")
        first = min(int(np.searchsorted(time_N, start_s - 1e-6)), len(time_N) - 1)
    if end_s is not None:
        last = int(np.searchsorted(time_N, end_s - 1e-6))
    if last <= first:
        on_screen = int(np.searchsorted(time_N, (start_s or 0.0) + 1e-6)) - 1
        return max(on_screen, 0), max(on_screen, 0) + 1
    return first, last


def _to_model_size(frame: VideoFrame, preprocess: Preprocess) -> np.ndarray:
    """uint8 [3, H, W]: upright and resized."""
    rgb_HW3 = frame.reformat(format="rgb24", threads=1).to_ndarray()
    return to_model_size(Image.fromarray(np.rot90(rgb_HW3, k=round(frame.rotation / 90) % 4)), preprocess)
