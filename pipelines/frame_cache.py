"""Decode a shard set once: the same shards and samples, with frame files in place of the videos.

Shards and keys keep their names, so every uid stays what it was. Of a video that is a model's ``num_frames`` the file
holds ``density`` times as many, evenly spread. ``density`` is a power of two: only then is every frame that uniform
sampling takes from the video among the stored ones, and taken again, whatever the video's length (rounding included).
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import pyarrow as pa

from fpig_core.preprocess import Preprocess
from pipelines import storage
from pipelines.frame_file import pack_frames
from pipelines.guarded import decode_guarded
from pipelines.indexing import index_shards
from pipelines.manifest import MANIFEST_SCHEMA, Manifest, load_manifest, save_manifest
from pipelines.quarantine import SampleError
from pipelines.reader import read_videos
from pipelines.shard_set import (
    Reject,
    Sample,
    SetReport,
    ShardTask,
    find_receipts,
    finish_set,
    read_written,
    set_inputs,
)
from pipelines.suffixes import FRAMES_SUFFIX

FRAMES_NAME = "_FRAMES.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameStore:
    """What is stored of each video."""

    num_frames: int = 12
    """Frames that the model sees of a video."""
    density: Literal[1, 2, 4, 8] = 2
    """How many times as many are stored: what training's jitter can choose from."""
    size: int = 224
    """Height and width that the model sees."""
    resize_mode: Literal["squash", "shortest"] = "squash"
    """How the model wants frames resized."""
    codec: Literal["raw", "jpeg"] = "raw"
    """raw: the very bytes, three for a pixel; jpeg: a fifth of them, nearly the same pictures."""
    quality: int = 95
    """Quality of JPEG, without loss of colour resolution."""

    def __post_init__(self) -> None:
        if self.num_frames < 1 or self.size < 1 or self.density not in (1, 2, 4, 8) or not 1 <= self.quality <= 95:
            raise ValueError(
                f"got num_frames={self.num_frames}, size={self.size}, density={self.density}, quality={self.quality}; "
                "wanted at least 1 frame and 1 pixel, a density of 1, 2, 4 or 8, and a quality from 1 to 95"
            )

    @property
    def preprocess(self) -> Preprocess:
        """Gives the frames to store."""
        num_stored = 1 + self.density * (self.num_frames - 1)
        return Preprocess(num_frames=num_stored, size=self.size, resize_mode=self.resize_mode)


def plan_cache(manifest: Manifest, out_url: str, *, store: FrameStore) -> list[ShardTask]:
    """One task for each shard of ``manifest``.

    Raises:
        ValueError: it has no sample.
    """
    if not manifest.num_rows:
        raise ValueError(f"got the manifest of {manifest.root} without a sample; there is nothing to store")
    manifest = dataclasses.replace(manifest, root=storage.absolute(manifest.root))
    places: dict[str, list[int]] = {}
    names = (name for rows in manifest.batches(["shard"]) for name in rows.column("shard").to_pylist())
    for place, shard in enumerate(names):
        places.setdefault(shard, []).append(place)
    tasks = []
    for shard, place in places.items():
        rows = manifest.take(place)
        inputs = json.dumps([rows.to_pylist(), repr(store)], default=str).encode()
        tasks.append(
            ShardTask(
                out_url=storage.absolute(out_url),
                name=shard,
                inputs=hashlib.sha256(inputs).hexdigest(),
                num_samples=rows.num_rows,
                num_bytes=sum(rows.column("video_bytes").to_pylist()),
                make=functools.partial(store_frames, manifest, place, store=store),
            )
        )
    return tasks


def store_frames(manifest: Manifest, places: Sequence[int], *, store: FrameStore) -> Iterator[Sample | Reject]:
    """Samples of frame files for rows of ``manifest``; who cannot be decoded is a reject, by uid."""
    records = manifest.take(places).to_pylist()
    for record, video in zip(records, read_videos(manifest, records, verify="sha256"), strict=True):
        try:
            frame_F3HW = decode_guarded(record, video, preprocess=store.preprocess)
        except SampleError as error:
            yield Reject(record["uid"], error.code, error.detail)
            continue
        data = pack_frames(frame_F3HW, codec=store.codec, resize_mode=store.resize_mode, quality=store.quality)
        yield Sample(record["key"], {FRAMES_SUFFIX: data, "json": _metadata(record)})


def write_settings(out_url: str, manifest: Manifest, *, store: FrameStore) -> None:
    """Tell beside the shards what they hold and what they were made from."""
    origin = {"source": manifest.root, "source_digest": manifest.digest}
    data = json.dumps(origin | dataclasses.asdict(store), indent=1).encode() + b"\n"
    storage.write_bytes(storage.join(out_url, FRAMES_NAME), data)


def finish_cache(manifest: Manifest, tasks: Sequence[ShardTask]) -> SetReport:
    """Write the manifest of the frame files and commit the set. Rejected samples stay, as rows without a file."""
    out_url = tasks[0].out_url
    if (read_written(out_url) or {}).get("inputs") == set_inputs(tasks):
        return finish_set(tasks)
    index_shards(out_url)
    table = load_manifest(out_url).table
    row_of = {row["uid"]: row for row in table.to_pylist()}
    sizes = {shard: storage.size(storage.join(out_url, shard)) for shard in {task.name for task in tasks}}
    why = {reject.sample: reject for receipt in find_receipts(tasks).values() for reject in receipt.rejected}
    rows = []
    for row in manifest.table.to_pylist():
        if row["uid"] in row_of:
            rows.append(row_of[row["uid"]])
            continue
        reject = why[row["uid"]]
        nowhere = {"video_suffix": "", "video_offset": -1, "video_bytes": 0, "sha256": ""}
        status = {"shard_bytes": sizes[row["shard"]], "status": reject.reason, "reason": reject.detail}
        rows.append(row | nowhere | status)
    save_manifest(out_url, pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA))
    return finish_set(tasks)


def require_fitting(manifest: Manifest, preprocess: Preprocess) -> None:
    """Refuse stored frames that a model with these settings cannot see.

    Raises:
        ValueError: other size or resize mode.
    """
    suffixes = (rows.column("video_suffix").unique().to_pylist() for rows in manifest.batches(["video_suffix"]))
    if not any(FRAMES_SUFFIX in found for found in suffixes):
        return
    stored = json.loads(storage.read_bytes(storage.join(manifest.root, FRAMES_NAME)))
    for name, wanted in (("size", preprocess.size), ("resize_mode", preprocess.resize_mode)):
        if stored[name] != wanted:
            raise ValueError(
                f"got frames stored with {name}={stored[name]} in {manifest.root}, the model wants {wanted}; "
                f"make others: python -m jobs.cache_frames --manifest {stored['source']} --out … --{name} {wanted}"
            )


def _metadata(record: dict[str, Any]) -> bytes:
    fields = {
        "video_id": record["video_id"],
        "captions": record["captions"],
        "source_start_s": record["start_s"],
        "source_end_s": record["end_s"],
    }
    present = {name: value for name, value in fields.items() if value is not None}
    return json.dumps(present, ensure_ascii=False, sort_keys=True).encode()
