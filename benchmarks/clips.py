"""Inputs made on the spot: H.264 clips, and shards of any size whose videos are random bytes."""

import io
import tarfile
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from pipelines.annotations import Record
from pipelines.indexing import index_shards
from pipelines.manifest import Manifest, load_manifest
from pipelines.shard_pool import write_here
from pipelines.shard_set import claim_set, finish_set
from pipelines.shards import plan_shard_set, shard_name
from pipelines.sources import Source
from pipelines.transcode import Encoding


def make_clip(
    *,
    gop: int,
    num_frames: int = 250,
    shot_s: float | None = None,
    fps: int = 25,
    width: int = 320,
    height: int = 240,
) -> bytes:
    """An mp4 of soft shapes that drift under a little noise, with x264's defaults and key frames ``gop`` apart.

    Every ``shot_s`` seconds other shapes appear, as at a cut.
    """
    rng = np.random.default_rng(0)
    shot_frames = num_frames if shot_s is None else round(shot_s * fps)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size = gop
        for number in range(num_frames):
            if number % shot_frames == 0:
                coarse_HW3 = rng.integers(0, 256, (height // 16, 2 * width // 16, 3), dtype=np.uint8)
                wide = Image.fromarray(coarse_HW3).resize((2 * width, height), Image.Resampling.BICUBIC)
                wide_HW3 = np.asarray(wide, np.int16)
            view_HW3 = np.roll(wide_HW3, -2 * number, axis=1)[:, :width]
            noise_HW3 = rng.integers(-4, 5, view_HW3.shape, dtype=np.int16)
            image_HW3 = (view_HW3 + noise_HW3).clip(0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image_HW3, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def write_copies(folder: Path, clip: bytes, *, num: int, encoding: Encoding | None = None) -> Manifest:
    """An indexed shard set at ``folder`` of ``num`` copies of one mp4."""
    path = folder.with_suffix(".mp4")
    path.write_bytes(clip)
    records = [Record(path.name, f"{number}", "all", ("",), None, None) for number in range(num)]
    sources = [Source(record, str(path), len(clip), "") for record in records]
    tasks = plan_shard_set(sources, str(folder), shard_bytes=1 << 28, encoding=encoding)
    claim_set(tasks)
    list(write_here(tasks))
    finish_set(tasks)
    index_shards(str(folder))
    return load_manifest(str(folder))


def write_random_shards(folder: Path, *, num_shards: int, videos_per_shard: int, video_bytes: int = 1 << 20) -> None:
    """Shards for reading alone: nothing in them can be decoded."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for shard in range(num_shards):
        with tarfile.open(folder / shard_name(shard), "w") as tar:
            for number in range(shard * videos_per_shard, (shard + 1) * videos_per_shard):
                for suffix, data in (("mp4", rng.bytes(video_bytes)), ("json", b"{}")):
                    member = tarfile.TarInfo(f"{number:09d}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
