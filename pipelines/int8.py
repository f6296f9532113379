"""Vectors as bytes: each with a scale of its own, symmetric around 0, so that 0 stays 0."""

import numpy as np

LEVELS = 127


def quantise(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors [..., D] -> their numbers as int8 [..., D], and scales float32 [...] that give them back.

    The largest number of a vector becomes ±127. The scale is then the one that gives the vector its own length back,
    so that unit vectors stay unit vectors.
    """
    value = x.astype(np.float32)
    largest = np.abs(value).max(axis=-1, keepdims=True, initial=0)
    step = np.where(largest > 0, largest, 1) / LEVELS
    code = np.rint(value / step).astype(np.int8)
    length = np.linalg.norm(code.astype(np.float32), axis=-1)
    # A vector of zeros has codes of zeros, for which every scale is right.
    scale = np.linalg.norm(value, axis=-1) / np.where(length > 0, length, 1)
    return code, scale.astype(np.float32)


def dequantise(code: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """int8 [..., D] and scales [...] -> float32 [..., D]."""
    return code.astype(np.float32) * scale[..., None]
