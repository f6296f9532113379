"""Write the synthetic world as a folder of H.264 videos and a table of captions."""

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, NamedTuple

import av
import numpy as np

from pipelines import storage
from pipelines.synthetic_captions import describe
from pipelines.synthetic_world import make_scene, render
from pipelines.x264 import repeatable

CAPTIONS_NAME = "captions.csv"
WORLD_NAME = "world.json"
SPLITS = ("train", "val", "test")
_VERSION = 1
_FRAMES_PER_S = 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """How many videos of which kind; equal worlds give equal bytes. ``num_corrupt`` broken videos join the tests."""

    num_train: int = 600
    num_val: int = 100
    num_test: int = 200
    num_corrupt: int = 2
    seed: int = 0
    size: int = 96
    num_frames: int = 24

    def __post_init__(self) -> None:
        if min(self.num_train, self.num_val, self.num_test, self.num_corrupt, self.seed) < 0:
            raise ValueError(f"got {self}, wanted counts and a seed of at least 0")
        if self.size < 16 or self.size % 2 or self.num_frames < 1:
            raise ValueError(
                f"got size={self.size}, num_frames={self.num_frames}; wanted an even size from 16 and at least 1 frame"
            )


class CaptionRow(NamedTuple):
    """One row of a table of captions; ``video`` is the file's name in its folder."""

    video: str
    caption: str
    split: str
    video_id: str


class Clip(NamedTuple):
    """One video to make; ``flaw`` is "", "cut" (damaged bytes) or "empty" (a container without frames)."""

    split: str
    number: int
    flaw: str = ""

    @property
    def video_id(self) -> str:
        return f"{self.split}-{self.flaw + '-' if self.flaw else ''}{self.number:05d}"


def write_world(
    url: str, world: World, *, num_workers: int = 2, progress: Callable[[int, int], None] = lambda done, total: None
) -> bool:
    """Write ``videos/*.mp4`` and ``captions.csv`` under ``url``; False if all of it is there already.

    An interrupted run continues where it stopped. ``progress`` is called with (videos done, videos in all).

    Raises:
        ValueError: the folder holds another world.
    """
    settings = {"version": _VERSION, **dataclasses.asdict(world)}
    captions_url = storage.join(url, CAPTIONS_NAME)
    if is_written(storage.join(url, WORLD_NAME), captions_url, settings):
        return False

    clips = list(plan_clips(world))
    rows: list[CaptionRow] = []
    # Spawned, not forked: the caller may run threads (Ray, fsspec).
    with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:
        results = pool.map(_write_clip, [url] * len(clips), [world] * len(clips), clips, chunksize=8)
        for done, (clip, captions) in enumerate(zip(clips, results, strict=True), start=1):
            rows += [CaptionRow(f"{clip.video_id}.mp4", caption, clip.split, clip.video_id) for caption in captions]
            progress(done, len(clips))
    write_captions(captions_url, rows)
    return True


def is_written(record_url: str, table_url: str, settings: dict[str, Any]) -> bool:
    """True if what ``settings`` describe is complete, which the table shows; else they are on record from now on.

    Raises:
        ValueError: other settings are on record.
    """
    if storage.exists(record_url):
        found = json.loads(storage.read_bytes(record_url))
        if found != settings:
            raise ValueError(f"got {record_url} with {found}, wanted {settings}; choose another folder or remove this")
        return storage.exists(table_url)
    storage.write_bytes(record_url, json.dumps(settings, indent=2).encode() + b"\n")
    return False


def write_captions(url: str, rows: list[CaptionRow]) -> None:
    """The table that ``annotations.read_caption_table`` reads."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(CaptionRow._fields)
    writer.writerows(rows)
    storage.write_bytes(url, table.getvalue().encode())


def plan_clips(world: World) -> Iterator[Clip]:
    """All videos of a world in the order of its table."""
    for split, count in zip(SPLITS, (world.num_train, world.num_val, world.num_test), strict=True):
        for number in range(count):
            yield Clip(split, number)
    for number in range(world.num_corrupt):
        yield Clip("test", number, "empty" if number % 2 else "cut")


def make_clip(world: World, clip: Clip) -> tuple[Callable[[], bytes], list[str]]:
    """A function that films the clip, and its captions: the first one complete, all of them different."""
    rng = np.random.default_rng([world.seed, SPLITS.index(clip.split), clip.number, len(clip.flaw)])
    scene = make_scene(rng)
    num_captions = rng.integers(3, 6) if clip.split == "train" else rng.integers(1, 3)
    captions = [describe(scene, rng, complete=True)]
    captions += [describe(scene, rng) for _ in range(num_captions - 1)]

    def film() -> bytes:
        if clip.flaw == "empty":
            return encode(np.empty((0, world.size, world.size, 3), np.uint8))
        data = encode(render(scene, size=world.size, num_frames=world.num_frames))
        return data[: len(data) // 3] if clip.flaw else data

    return film, list(dict.fromkeys(captions))


def encode(frame_FHW3: np.ndarray) -> bytes:
    """uint8 [F, H, W, 3] with even H and W -> H.264 in mp4; the same bytes for the same frames."""
    buffer = io.BytesIO()
    with av.open(buffer, mode="w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=_FRAMES_PER_S)
        stream.height, stream.width = frame_FHW3.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "23", "preset": "veryfast", "x264-params": repeatable()}
        container.start_encoding()
        for image_HW3 in frame_FHW3:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image_HW3, format="rgb24")))
        if len(frame_FHW3):
            container.mux(stream.encode())
    return buffer.getvalue()


def _write_clip(url: str, world: World, clip: Clip) -> list[str]:
    """Write one video unless it is there; its captions."""
    film, captions = make_clip(world, clip)
    video_url = storage.join(url, "videos", f"{clip.video_id}.mp4")
    if not storage.exists(video_url):
        storage.write_bytes(video_url, film())
    return captions
