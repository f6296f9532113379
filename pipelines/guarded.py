"""Everything that is done with foreign bytes, each in a process that can be lost: what jobs and tasks call."""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from fpig_core.preprocess import Preprocess
from pipelines.decode import decode_sample
from pipelines.frame_file import is_raw
from pipelines.guard import run_guarded
from pipelines.guard_process import Ranges
from pipelines.limits import VideoLimits
from pipelines.probe import Probe, probe_media
from pipelines.quarantine import SampleError
from pipelines.suffixes import FRAMES_SUFFIX
from pipelines.transcode import Encoding, transcode

# Every frame is decoded and encoded again: it may take as long as the longest video lasts.
CODING_LIMITS = VideoLimits(max_cpu_s=6 * 3600.0, max_wait_s=4 * 24 * 3600.0)


def decode_guarded(
    record: Mapping[str, Any],
    video: bytes | SampleError,
    *,
    preprocess: Preprocess,
    rng: np.random.Generator | None = None,
    limits: VideoLimits = VideoLimits(),
) -> np.ndarray:
    """``decode_sample``. Whether it advances ``rng`` depends: do not use it again.

    Raises:
        SampleError: as ``decode_sample``; further ``too_slow`` and ``decoder_crashed``.
    """
    if isinstance(video, SampleError):
        raise video
    row = {name: record[name] for name in ("video_suffix", "start_s", "end_s")}
    decode = functools.partial(decode_sample, row, preprocess=preprocess, rng=rng, limits=limits)
    if row["video_suffix"] == FRAMES_SUFFIX and is_raw(video):
        return decode(video)  # bytes are copied, no decoder sees them
    return run_guarded(decode, video, limits=limits)


def transcode_guarded(
    data: bytes,
    *,
    suffix: str,
    encoding: Encoding,
    start_s: float | None = None,
    end_s: float | None = None,
    limits: VideoLimits = CODING_LIMITS,
) -> bytes:
    """``transcode``.

    Raises:
        SampleError: as ``transcode``; further ``too_slow`` and ``decoder_crashed``.
    """
    segment = {"start_s": start_s, "end_s": end_s}
    call = functools.partial(transcode, suffix=suffix, encoding=encoding, limits=limits, **segment)
    return run_guarded(call, data, limits=limits)


def probe_guarded(read: Ranges, *, num_bytes: int, suffix: str, limits: VideoLimits = VideoLimits()) -> Probe:
    """``probe_media``; ``probe`` may also be ``too_slow`` or ``decoder_crashed``.

    Raises:
        OSError: that of ``read``.
    """
    call = functools.partial(probe_media, num_bytes=num_bytes, suffix=suffix, limits=limits)
    try:
        return Probe(*run_guarded(call, read, limits=limits))
    except SampleError as error:
        return Probe(probe=error.code)
