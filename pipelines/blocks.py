"""Numbered blocks as a Ray Data source: one task makes one block, in order, and no other stage is needed."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import ray.data
from ray.data.block import Block, BlockAccessor, BlockMetadata
from ray.data.context import DataContext

LoadBlock = Callable[[int], dict[str, Any]]
"""A block's number -> its columns, the same number of rows in every block."""


class _Blocks(ray.data.Datasource):
    def __init__(self, load: LoadBlock, numbers: range):
        self._load, self._numbers = load, numbers

    def estimate_inmemory_data_size(self) -> None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ray.data.ReadTask]:
        unknown = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=None)
        return [ray.data.ReadTask(functools.partial(_read, self._load, number), unknown) for number in self._numbers]


def _read(load: LoadBlock, number: int) -> Iterator[Block]:
    yield BlockAccessor.batch_to_block(load(number))


def block_stream(load: LoadBlock, numbers: range) -> "ray.data.Dataset":
    """The blocks of ``numbers`` in order, each made by a task of one CPU.

    The process that executes it holds something of every block until the end; ``numbers`` should not be many
    thousands (see ``segments``).
    """
    # More tasks than blocks asked for: else Ray would cut what they give.
    dataset = ray.data.read_datasource(_Blocks(load, numbers), override_num_blocks=1, num_cpus=1)
    dataset.context.target_max_block_size = None
    dataset.context.execution_options.preserve_order = True
    # The driver draws the progress of the run; Ray's dashboard still shows every operator.
    dataset.context.enable_progress_bars = False
    dataset.context.print_on_execution_start = False
    return dataset
