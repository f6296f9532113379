"""From an upright picture of any size to what the model sees: one code for frames of videos and for images."""

import numpy as np
from PIL import Image

from fpig_core.preprocess import Preprocess


def to_model_size(image: Image.Image, preprocess: Preprocess) -> np.ndarray:
    """An RGB picture -> uint8 [3, H, W], contiguous: resized with antialiased bicubic, the centre cropped."""
    side, (width, height) = preprocess.size, image.size
    if preprocess.resize_mode == "squash":
        image = image.resize((side, side), Image.Resampling.BICUBIC)
    else:
        # Resizing only what the crop leaves: the whole of a very long picture would not fit into memory.
        across, down = (_centre(length, shortest=min(width, height), side=side) for length in (width, height))
        box = (across[0], down[0], across[1], down[1])
        image = image.resize((side, side), Image.Resampling.BICUBIC, box=box)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _centre(length: int, *, shortest: int, side: int) -> tuple[float, float]:
    """The pixels [start, stop) that the ``side`` in the middle show once ``shortest`` is resized to ``side``."""
    resized = int(side * length / shortest)
    start = round((resized - side) / 2)
    return start * length / resized, (start + side) * length / resized
