"""The training stream: plan → range reads → decode on CPU workers → blocks of exactly one micro-batch.

Ray Data hands the ordered blocks to the training workers in turn: with a block for each in every batch, worker ``r``
receives block ``r``. That holds only while every block has the same number of rows and the order is kept, so a sample
that cannot be used stays in its slot as a placeholder with ``ok = False``, and a batch that does not divide over the
workers is filled up with such slots.
"""

import dataclasses
import functools
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import ray.data

from fpig_core.preprocess import Preprocess
from fpig_core.schedule import Phase
from pipelines.blocks import block_stream
from pipelines.guarded import decode_guarded
from pipelines.manifest import Manifest
from pipelines.plan import EMPTY, Plan
from pipelines.quarantine import SampleError
from pipelines.reader import read_videos
from pipelines.segments import Share, deal

NOT_A_SAMPLE = "empty_slot"
SEGMENT_BLOCKS = 1 << 12
"""Blocks of one Ray Data stream, whose process remembers something of each of them until it ends."""
READ_THREADS = 8
"""Requests of a task at the same time: the samples of a block lie far apart, so that each takes one of its own."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamSource:
    """What the decoding tasks need besides the plan."""

    plan: Plan
    preprocess: Preprocess
    manifests: Mapping[Phase, Manifest]
    num_workers: int = 1

    @property
    def block_rows(self) -> int:
        """Rows of each block: a worker's share of a global batch."""
        return -(-self.plan.schedule.global_batch // self.num_workers)


def make_stream(source: StreamSource, *, first_batch: int, stop_batch: int | None = None) -> "ray.data.Dataset":
    """The blocks of the batches from ``first_batch`` to ``stop_batch``, by default to the end of the run, in order.

    Columns of a block of ``block_rows`` rows: ``batch, slot`` (place in the run), ``uid, caption, reason`` (strings),
    ``ok`` (bool) and ``frames`` (uint8 [F, 3, H, W] a row).
    """
    stop = source.plan.schedule.num_batches if stop_batch is None else stop_batch
    numbers = range(first_batch * source.num_workers, stop * source.num_workers)
    return block_stream(functools.partial(load_block, source), numbers)


def share_stream(source: StreamSource, *, first_batch: int) -> AbstractContextManager[list[Share]]:
    """What each worker receives of the stream from ``first_batch`` to the end of the run: a block of every batch."""
    num_batches = source.plan.schedule.num_batches
    step = max(1, SEGMENT_BLOCKS // source.num_workers)
    starts = range(first_batch, num_batches, step)

    def make_segment(number: int) -> ray.data.Dataset:
        first = starts[number]
        return make_stream(source, first_batch=first, stop_batch=min(first + step, num_batches))

    return deal(make_segment, num_segments=len(starts), num_workers=source.num_workers)


def load_block(source: StreamSource, block: int) -> dict[str, Any]:
    """Read and decode one block of the run: the columns described in ``make_stream``."""
    plan, rows = source.plan, source.block_rows
    batch, worker = divmod(block, source.num_workers)
    offset = worker * rows
    place = plan.schedule.place(batch)
    manifest = source.manifests[place.phase]
    sample = plan.samples(batch)[offset : offset + rows]
    filled = np.flatnonzero(sample != EMPTY)
    shape = (rows, source.preprocess.num_frames, 3, source.preprocess.size, source.preprocess.size)
    columns = {
        "batch": np.full(rows, batch, dtype=np.int64),
        "slot": np.arange(offset, offset + rows, dtype=np.int64),
        "ok": np.zeros(rows, dtype=bool),
        "uid": np.full(rows, "", dtype=object),
        "caption": np.full(rows, "", dtype=object),
        "reason": np.full(rows, NOT_A_SAMPLE, dtype=object),
        "frames": np.zeros(shape, dtype=np.uint8),
    }
    records = manifest.take_captioned(sample[filled]).to_pylist()
    videos = read_videos(manifest, records, num_threads=READ_THREADS)
    for slot, record, video in zip(filled, records, videos, strict=True):
        columns["uid"][slot] = record["uid"]
        rng = plan.sample_rng(place.epoch, record["uid"]) if place.phase == "train" else None
        captions = record["captions"]
        columns["caption"][slot] = captions[rng.integers(len(captions))] if rng else captions[0]
        try:
            columns["frames"][slot] = decode_guarded(record, video, preprocess=source.preprocess, rng=rng)
        except SampleError as error:
            columns["reason"][slot] = error.code
        else:
            columns["ok"][slot], columns["reason"][slot] = True, ""
    return columns
