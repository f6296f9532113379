"""What a viewer of found videos asks for: their bytes, range by range, and a still of each."""

import dataclasses
import functools
from typing import Any

from fpig_core.preprocess import Preprocess
from pipelines.decode import DEMUXERS
from pipelines.guard import run_guarded
from pipelines.guarded import decode_guarded
from pipelines.limits import VideoLimits
from pipelines.manifest import Manifest
from pipelines.quarantine import SampleError
from pipelines.reader import Ranges, open_video
from pipelines.stills import middle_frame, to_jpeg

# Somebody waits for the picture.
STILL_LIMITS = VideoLimits(max_cpu_s=10.0, max_idle_s=10.0, max_wait_s=30.0, max_memory_bytes=1 << 30)
STILL_PX = 480
MAX_WHOLE_BYTES = 256 << 20
"""The largest video that is read as a whole."""
MEDIA_TYPES = {
    "avi": "video/x-msvideo",
    "mkv": "video/x-matroska",
    "mov": "video/quicktime",
    "mp4": "video/mp4",
    "webm": "video/webm",
}


def media_type(sample: dict[str, Any]) -> str:
    """Of a video that a browser may play; "" of an image, and of frames that were decoded before."""
    return MEDIA_TYPES.get(sample["video_suffix"], "")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Media:
    """Videos of a manifest. ``preprocess``: the size and mode of frames in a set that holds frames, not videos.

    All methods raise:
        SampleError: this sample cannot be shown, and why.
        OSError: the store refuses or does not answer.
    """

    manifest: Manifest
    preprocess: Preprocess
    limits: VideoLimits = STILL_LIMITS

    def open(self, sample: dict[str, Any]) -> Ranges:
        """``read(start, length)`` of the bytes of a manifest row's video."""
        return open_video(self.manifest, sample, limits=self.limits)

    def whole(self, sample: dict[str, Any]) -> bytes:
        """All bytes of a manifest row's video, unless they are more than ``MAX_WHOLE_BYTES``."""
        if sample["video_bytes"] > MAX_WHOLE_BYTES:
            raise SampleError("too_large", f"{sample['video_bytes']} bytes, read as a whole up to {MAX_WHOLE_BYTES}")
        return self.open(sample)(0, sample["video_bytes"])

    def still(self, sample: dict[str, Any]) -> bytes:
        """A JPEG of the frame in the middle of a manifest row's segment, decoded in a process that can be lost."""
        if sample["video_suffix"] not in DEMUXERS:
            three_frames = dataclasses.replace(self.preprocess, num_frames=3)
            frame_3HW = decode_guarded(sample, self.whole(sample), preprocess=three_frames, limits=self.limits)[1]
            return to_jpeg(frame_3HW.transpose(1, 2, 0), side_px=STILL_PX)
        call = functools.partial(
            middle_frame,
            num_bytes=sample["video_bytes"],
            suffix=sample["video_suffix"],
            start_s=sample["start_s"],
            end_s=sample["end_s"],
            side_px=STILL_PX,
            limits=self.limits,
        )
        return run_guarded(call, self.open(sample), limits=self.limits)
