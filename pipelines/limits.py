"""What one video may cost."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoLimits:
    """A video or image over one of these is rejected as ``too_large``, by its bytes before it is read."""

    max_bytes: int = 2 << 30
    max_pixels: int = 8192 * 4320
    max_frames: int = 500_000
    max_seconds: float = 6 * 3600.0
