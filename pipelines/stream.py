"""The training stream: plan → range reads → decode on CPU workers → blocks of exactly one micro-batch.

Ray Data hands the ordered blocks to the training workers in turn: with a block for each in every batch, worker ``r``
receives block ``r``. That holds only while every block has the same number of rows and the order is kept, so a sample
that cannot be used stays in its slot as a placeholder with ``ok = False``, and a batch that does not divide over the
workers is filled up with such slots.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import ray.data

from fpig_core.preprocess import Preprocess
from fpig_core.schedule import Phase
from pipelines.guarded import decode_guarded
from pipelines.manifest import Manifest
from pipelines.plan import EMPTY, Plan
from pipelines.quarantine import SampleError
from pipelines.reader import read_videos

NOT_A_SAMPLE = "empty_slot"
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


def make_stream(source: StreamSource, *, first_batch: int) -> "ray.data.Dataset":
    """The blocks of all batches from ``first_batch`` to the end of the run, in order.

    Columns of a block of ``block_rows`` rows: ``batch, slot`` (place in the run), ``uid, caption, reason`` (strings),
    ``ok`` (bool) and ``frames`` (uint8 [F, 3, H, W] a row).
    """
    schedule = source.plan.schedule
    first_block = first_batch * source.num_workers
    num_blocks = schedule.num_batches * source.num_workers - first_block
    dataset = ray.data.range(num_blocks, override_num_blocks=max(1, min(num_blocks, 8)))
    dataset.context.target_max_block_size = None
    dataset.context.execution_options.preserve_order = True
    # The driver draws the progress of the run; Ray's dashboard still shows every operator.
    dataset.context.enable_progress_bars = False
    dataset.context.print_on_execution_start = False
    return dataset.repartition(target_num_rows_per_block=1, strict=True).map_batches(
        _decode_block,  # pyright: ignore[reportArgumentType]  # Ray does not declare keyword arguments
        batch_size=1,
        num_cpus=1,
        fn_kwargs={"source": source, "first_block": first_block},
    )


def _decode_block(batch: dict[str, np.ndarray], *, source: StreamSource, first_block: int) -> dict[str, Any]:
    (number,) = batch["id"]
    return load_block(source, first_block + int(number))


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
