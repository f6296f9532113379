"""Which frames of a video the model sees (policies of the F-Pig and CLIP-ViP reference code)."""

import numpy as np


def uniform_indices(num_available: int, num_frames: int) -> np.ndarray:
    """``num_frames`` frame numbers spread evenly over [0, num_available − 1], both ends included; frames repeat if few.

    Raises:
        ValueError: the video has no frame.
    """
    if num_available < 1:
        raise ValueError(f"got {num_available} frames, wanted at least 1")
    return np.linspace(0, num_available - 1, num_frames).round().astype(np.int64)


def jittered_indices(num_available: int, num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """Training policy: the first frame is drawn from the first interval, the last from the last one.

    The interval is ⌊num_available / (num_frames − 1)⌋; a video with fewer frames than wanted is taken whole.

    Raises:
        ValueError: the video has no frame.
    """
    if num_available < num_frames or num_frames == 1:
        return uniform_indices(num_available, num_frames)
    last = num_available - 1
    interval = num_available // (num_frames - 1)
    start = rng.integers(0, min(interval, last), endpoint=True)
    end = rng.integers(max(last - interval, start), last, endpoint=True)
    return np.linspace(start, end, num_frames).round().astype(np.int64)
