"""uint8 frames to what the vision tower expects, on the model's device."""

import torch
from torch import Tensor

from fpig_core.preprocess import Preprocess


def normalise(frame_BF3HW: Tensor, preprocess: Preprocess, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Turn uint8 frames into standardised frames of ``dtype``, same shape."""
    shape = (3, 1, 1)
    mean = torch.tensor(preprocess.mean, dtype=dtype, device=frame_BF3HW.device).view(shape)
    std = torch.tensor(preprocess.std, dtype=dtype, device=frame_BF3HW.device).view(shape)
    return (frame_BF3HW.to(dtype) / 255 - mean) / std
