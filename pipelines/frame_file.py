"""Frames that were decoded once: a small file of pictures at the model's size, from which frames are chosen again.

Layout: ``FPIGFRM1``, the length of the header (4 bytes, little endian), the header as JSON (``codec``, ``size``,
``resize_mode``, ``lengths`` of the stored pictures in bytes, ``shown``: which picture each frame shows), the pictures.
Equal neighbours are stored once. The bytes may come from outside: everything in the header is checked, nothing is
unpickled.
"""

import io
import itertools
import json
import struct
from typing import Any, Literal

import numpy as np
from PIL import Image

from fpig_core.frames import jittered_indices, uniform_indices
from fpig_core.preprocess import Preprocess
from pipelines.quarantine import SampleError

Codec = Literal["jpeg", "raw"]
_MAGIC = b"FPIGFRM1"
_MAX_FRAMES, _MAX_SIZE = 1 << 16, 4096


def pack_frames(frame_F3HW: np.ndarray, *, codec: Codec, resize_mode: str, quality: int = 95) -> bytes:
    """uint8 [F, 3, H, H] at the model's size -> the bytes of a frame file; the same frames give the same bytes."""
    shown, kept = [], []
    for number, frame_3HW in enumerate(frame_F3HW):
        if not number or (frame_3HW != frame_F3HW[number - 1]).any():
            kept.append(_jpeg(frame_3HW, quality) if codec == "jpeg" else frame_3HW.tobytes())
        shown.append(len(kept) - 1)
    header = {
        "codec": codec,
        "size": frame_F3HW.shape[-1],
        "resize_mode": resize_mode,
        "lengths": [len(picture) for picture in kept],
        "shown": shown,
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    return b"".join([_MAGIC, struct.pack("<I", len(text)), text, *kept])


def unpack_frames(data: bytes, *, preprocess: Preprocess, rng: np.random.Generator | None = None) -> np.ndarray:
    """Frames chosen from the stored ones as ``decode_frames`` chooses from a video: uniform, or jittered with ``rng``.

    Returns:
        uint8 [F, 3, H, W], contiguous.

    Raises:
        SampleError: ``bad_frames``: not a frame file, or made for models that see other pictures.
    """
    header, start = _read_header(data)
    for name, wanted in (("size", preprocess.size), ("resize_mode", preprocess.resize_mode)):
        if header[name] != wanted:
            raise SampleError("bad_frames", f"stored with {name}={header[name]!r}, the model wants {wanted!r}")
    shown, num_frames = header["shown"], preprocess.num_frames
    numbers = uniform_indices(len(shown), num_frames) if rng is None else jittered_indices(len(shown), num_frames, rng)
    bounds = list(itertools.accumulate(header["lengths"], initial=start))
    side, read = preprocess.size, _read_jpeg if header["codec"] == "jpeg" else _read_raw
    pictures: dict[int, np.ndarray] = {}
    frame_F3HW = np.empty((num_frames, 3, side, side), np.uint8)
    for place, number in enumerate(numbers.tolist()):
        picture = shown[number]
        if picture not in pictures:
            pictures[picture] = read(memoryview(data)[bounds[picture] : bounds[picture + 1]], side)
        frame_F3HW[place] = pictures[picture]
    return frame_F3HW


def is_raw(data: bytes) -> bool:
    """Whether the pictures of a frame file are plain pixels, for which no decoder is needed.

    Raises:
        SampleError: ``bad_frames``: not a frame file.
    """
    return _read_header(data)[0]["codec"] == "raw"


def _read_header(data: bytes) -> tuple[dict[str, Any], int]:
    """The checked header, and where the pictures begin."""
    if len(data) < 12 or data[:8] != _MAGIC:
        raise SampleError("bad_frames", "no frame file")
    start = 12 + struct.unpack_from("<I", data, 8)[0]
    try:
        header = json.loads(data[12:start])
        codec, size, lengths, shown = (header[name] for name in ("codec", "size", "lengths", "shown"))
        is_sound = (
            codec in ("jpeg", "raw")
            and _are_counts([size], 1, _MAX_SIZE)
            and isinstance(header["resize_mode"], str)
            and _are_counts(lengths, 3 * size * size if codec == "raw" else 1, 3 * size * size + 4096)
            and 0 < len(shown) <= _MAX_FRAMES
            and _are_counts(shown, 0, len(lengths) - 1)
            and start + sum(lengths) == len(data)
        )
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise SampleError("bad_frames", f"{type(error).__name__}: {error}") from error
    if not is_sound:
        raise SampleError("bad_frames", "the header does not fit the bytes")
    return header, start


def _are_counts(values: list[Any], low: int, high: int) -> bool:
    return all(type(value) is int and low <= value <= high for value in values)


def _jpeg(frame_3HW: np.ndarray, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(frame_3HW.transpose(1, 2, 0))).save(
        buffer, "JPEG", quality=quality, subsampling=0
    )
    return buffer.getvalue()


def _read_raw(data: memoryview, side: int) -> np.ndarray:
    return np.frombuffer(data, np.uint8, count=3 * side * side).reshape(3, side, side)


def _read_jpeg(data: memoryview, side: int) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            if image.size != (side, side) or image.mode != "RGB":
                raise SampleError("bad_frames", f"a picture of {image.size} {image.mode}")
            return np.asarray(image).transpose(2, 0, 1)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise SampleError("bad_frames", f"{type(error).__name__}: {error}") from error
