"""Keeping arithmetic that needs its digits out of half precision."""

import contextlib
from contextlib import AbstractContextManager

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision is lifted; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Inside, products on the device of ``x`` keep the types of their factors."""
    # the device "meta" knows no autocast
    return contextlib.nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)
