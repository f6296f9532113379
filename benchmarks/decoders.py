"""Other ways to take frames from a video: what one writes first with PyAV, and other libraries where there are any.

Each takes (bytes of an mp4, frame numbers) and gives RGB pictures, with one thread.
"""

import importlib
import io
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import av
import numpy as np
from PIL import Image

from fpig_core.frames import uniform_indices
from fpig_core.preprocess import Preprocess

Decoder = Callable[[bytes, list[int]], Iterator[Image.Image]]


def decode_with(decoder: Decoder, data: bytes, *, num_frames: int, preprocess: Preprocess) -> np.ndarray:
    """uint8 [F, 3, H, W]: spread evenly over the ``num_frames`` of the video, and squashed as the model wants them."""
    size = (preprocess.size, preprocess.size)
    numbers = uniform_indices(num_frames, preprocess.num_frames).tolist()
    images = [image.resize(size, Image.Resampling.BICUBIC) for image in decoder(data, numbers)]
    return np.stack([np.asarray(image).transpose(2, 0, 1) for image in images])


def with_pyav(data: bytes, numbers: list[int]) -> Iterator[Image.Image]:
    """All frames in order; only the wanted ones become pictures."""
    wanted = set(numbers)
    with av.open(io.BytesIO(data), mode="r") as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        images = {n: frame.to_image() for n, frame in enumerate(container.decode(stream)) if n in wanted}
    yield from (images[number] for number in numbers)


def others(data: bytes) -> dict[str, Decoder]:
    """The libraries that are installed and can decode ``data``; none of them is a dependency."""
    works: dict[str, Decoder] = {}
    for name, decoder in {"torchcodec": _with_torchcodec, "decord": _with_decord, "cv2": _with_opencv}.items():
        if not find_spec(name):
            continue
        try:
            list(decoder(data, [0]))
        except Exception as error:
            print(f"{name} is installed and does not work: {str(error).splitlines()[0]}")
        else:
            works[name] = decoder
    return works


def _with_torchcodec(data: bytes, numbers: list[int]) -> Iterator[Image.Image]:
    decoders: Any = importlib.import_module("torchcodec.decoders")
    decoder = decoders.VideoDecoder(data, dimension_order="NHWC", num_ffmpeg_threads=1)
    yield from map(Image.fromarray, decoder.get_frames_at(numbers).data.numpy())


def _with_decord(data: bytes, numbers: list[int]) -> Iterator[Image.Image]:
    decord: Any = importlib.import_module("decord")
    yield from map(Image.fromarray, decord.VideoReader(io.BytesIO(data), num_threads=1).get_batch(numbers).asnumpy())


def _with_opencv(data: bytes, numbers: list[int]) -> Iterator[Image.Image]:
    """OpenCV reads files only, and its seeking is not exact: frames are grabbed in order, the wanted ones retrieved."""
    cv2: Any = importlib.import_module("cv2")
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        file.write(data)
        file.flush()
        capture = cv2.VideoCapture(file.name, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        for number in range(numbers[-1] + 1):
            capture.grab()
            for _ in range(numbers.count(number)):
                yield Image.fromarray(cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB))
        capture.release()
