"""What one video may cost."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoLimits:
    """A video or image over one of these is rejected, by its bytes before it is read."""

    max_bytes: int = 2 << 30
    max_pixels: int = 8192 * 4320
    max_frames: int = 500_000
    max_seconds: float = 6 * 3600.0

    max_cpu_s: float = 600.0
    """Seconds of CPU in the decoder, rounded up to whole ones. They do not pass faster on a busy machine."""
    max_idle_s: float = 120.0
    """Seconds in which the decoder takes no CPU time at all: it waits for something that will not come."""
    max_wait_s: float = 4 * 3600.0
    """Seconds by the clock on the wall, whatever the decoder does."""
    max_memory_bytes: int = 4 << 30
    """What the decoder may ask for, beside twice the bytes of the video and what it has once it is loaded."""
