"""How frames become the numbers a vision tower expects.

Decoding workers resize and crop to ``uint8``; ``normalise.normalise`` runs on the model's device, so that a quarter of
the bytes of float frames cross the object store. Decoding workers read these settings and never import torch.
"""

import dataclasses
from typing import Literal

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocess:
    """Frames of one video as the model sees them.

    ``squash`` resizes straight to ``size`` × ``size`` (reference of F-Pig); ``shortest`` resizes the shortest side
    to ``size`` and crops the centre (CLIP4Clip).
    """

    num_frames: int = 12
    size: int = 224
    resize_mode: Literal["squash", "shortest"] = "squash"
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD

    def __post_init__(self) -> None:
        if self.num_frames < 1 or self.size < 1:
            raise ValueError(f"got num_frames={self.num_frames}, size={self.size}; both must be at least 1")
