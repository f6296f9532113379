"""Frames to what the vision tower expects, on the model's device; vectors to unit length."""

import torch
import torch.nn.functional as nnf
from torch import Tensor

from fpig_core.precision import at_least_float32
from fpig_core.preprocess import Preprocess


def normalise(frame_BF3HW: Tensor, preprocess: Preprocess, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Turn uint8 frames into standardised frames of ``dtype``, same shape."""
    shape = (3, 1, 1)
    mean = torch.tensor(preprocess.mean, dtype=dtype, device=frame_BF3HW.device).view(shape)
    std = torch.tensor(preprocess.std, dtype=dtype, device=frame_BF3HW.device).view(shape)
    return (frame_BF3HW.to(dtype) / 255 - mean) / std


def unit(x_BD: Tensor) -> Tensor:
    """L2-normalised over the last dimension, in at least float32."""
    return nnf.normalize(at_least_float32(x_BD), dim=-1)
