"""Streams with nothing to decode, for ``scale_stream``: in a module of their own, which tasks import by its name."""

import functools
from typing import Any

import numpy as np
import ray.data

ROWS, ROW_BYTES = 8, 1 << 14


def empty_block(num_workers: int, number: int) -> dict[str, Any]:
    """A block of zeros that is large enough not to travel inside messages."""
    batch, worker = divmod(number, num_workers)
    slot = worker * ROWS + np.arange(ROWS)
    return {"batch": np.full(ROWS, batch), "slot": slot, "frames": np.zeros((ROWS, ROW_BYTES), np.uint8)}


def repartitioned(num_workers: int, num_blocks: int) -> ray.data.Dataset:
    """The same blocks by Ray Data's repartition, in one execution."""
    dataset = ray.data.range(num_blocks, override_num_blocks=8)
    dataset.context.target_max_block_size = None
    dataset.context.execution_options.preserve_order = True
    dataset.context.enable_progress_bars = False
    dataset.context.print_on_execution_start = False
    return dataset.repartition(target_num_rows_per_block=1, strict=True).map_batches(
        functools.partial(_numbered, num_workers),  # pyright: ignore[reportArgumentType]
        batch_size=1,
        num_cpus=1,
    )


def _numbered(num_workers: int, batch: dict[str, np.ndarray]) -> dict[str, Any]:
    (number,) = batch["id"]
    return empty_block(num_workers, int(number))
