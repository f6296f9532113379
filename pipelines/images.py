"""From the bytes of one image to the frames a model sees: a video of a single frame, shown over and over.

The bytes come from outside: the format is forced by the suffix, bytes and pixels are limited.
"""

import contextlib
import io
import struct

import numpy as np
from PIL import Image, ImageOps

from fpig_core.preprocess import Preprocess
from pipelines.limits import VideoLimits
from pipelines.quarantine import SampleError
from pipelines.resize import to_model_size

IMAGE_FORMATS = {"jpeg": "JPEG", "jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
# What Pillow's readers raise for damaged bytes: OSError mostly, and the accidents of parsing.
_PARSE_ERRORS = (OSError, EOFError, SyntaxError, ValueError, LookupError, TypeError, struct.error)


def decode_image(
    data: bytes, *, suffix: str, preprocess: Preprocess, limits: VideoLimits = VideoLimits()
) -> np.ndarray:
    """The upright image (EXIF), or the first one of an animation, in RGB; what is transparent is shown on white.

    It is white because img2dataset, too, lays transparent images on white.

    Returns:
        uint8 [F, 3, H, W], contiguous: F equal frames.

    Raises:
        SampleError: ``bad_suffix``, ``too_large`` or ``bad_image``.
    """
    form = IMAGE_FORMATS.get(suffix.lower())
    if form is None:
        raise SampleError("bad_suffix", f"got {suffix!r}, wanted one of {', '.join(IMAGE_FORMATS)}")
    if len(data) > limits.max_bytes:
        raise SampleError("too_large", f"{len(data)} bytes, limit {limits.max_bytes}")
    try:
        with Image.open(io.BytesIO(data), formats=[form]) as image:
            if image.width * image.height > limits.max_pixels:
                raise SampleError("too_large", f"{image.width}×{image.height} pixels, limit {limits.max_pixels}")
            frame_3HW = to_model_size(_rgb(_upright(image)), preprocess)
    except Image.DecompressionBombError as error:
        raise SampleError("too_large", str(error)) from error
    except (*_PARSE_ERRORS, MemoryError) as error:
        raise SampleError.of("bad_image", error) from error
    return np.repeat(frame_3HW[None], preprocess.num_frames, axis=0)


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    # A sound image with damaged EXIF is shown as it is stored, as every viewer does.
    with contextlib.suppress(*_PARSE_ERRORS):
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _rgb(image: Image.Image) -> Image.Image:
    """Any mode of Pillow in RGB."""
    if image.mode.startswith("I"):
        # 16 bits of grey: Pillow would clip them to 255.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")
