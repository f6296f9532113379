"""Pseudo-random permutations that need no array: a Feistel network over the index bits, walked back into range."""

import hashlib

import numpy as np

_ROUNDS = 4


def derive_key(*parts: int | str) -> int:
    """A 64-bit key from any mixture of numbers and names, the same on every machine."""
    text = "\0".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def _mix(value: np.ndarray, key: int) -> np.ndarray:
    """SplitMix64 finaliser."""
    with np.errstate(over="ignore"):
        value = value + np.uint64(key)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def permute(index: np.ndarray, size: int, key: int) -> np.ndarray:
    """Image of ``index`` (integers in [0, size)) under the permutation of [0, size) that ``key`` names; int64."""
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask, shift = np.uint64((1 << half) - 1), np.uint64(half)
    round_keys = [derive_key(key, i) for i in range(_ROUNDS)]
    value = index.astype(np.uint64)
    outside = np.ones(value.shape, dtype=bool)
    while outside.any():
        left, right = value[outside] >> shift, value[outside] & mask
        for round_key in round_keys:
            left, right = right, left ^ (_mix(right, round_key) & mask)
        value[outside] = (left << shift) | right
        outside &= value >= np.uint64(size)
    return value.astype(np.int64)
