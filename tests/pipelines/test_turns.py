"""A stream runs ahead of what is finished as far as it may, and no further."""

import functools
from pathlib import Path

import numpy as np
import ray.data

from pipelines.turns import Turns, take_turns
from tests.waiting import wait_until

NUM, AHEAD = 40, 3


def note(batch: dict[str, np.ndarray], *, folder: str) -> dict[str, np.ndarray]:
    """A stage that leaves a file for each number that comes to it."""
    (Path(folder) / str(batch["id"][0])).touch()
    return batch


def noted_stream(turns: Turns, folder: Path) -> ray.data.Dataset:
    numbers = ray.data.range(NUM, override_num_blocks=1).repartition(target_num_rows_per_block=1, strict=True)
    noting = functools.partial(note, folder=str(folder))
    stream = turns.hold_back(numbers).map_batches(noting, batch_size=1, num_cpus=0.5)  # pyright: ignore[reportArgumentType]
    stream.context.execution_options.preserve_order = True
    return stream


def num_noted(folder: Path) -> int:
    return len(list(folder.iterdir()))


def test_nothing_starts_before_its_turn(ray_local, tmp_path):
    with take_turns() as turns:
        turns.allow(AHEAD)
        for number, row in enumerate(noted_stream(turns, tmp_path).iter_rows()):
            assert row["id"] == number
            assert num_noted(tmp_path) <= number + AHEAD
            turns.allow(number + 1 + AHEAD)
    assert num_noted(tmp_path) == NUM


def test_what_has_its_turn_starts_before_it_is_asked_for(ray_local, tmp_path):
    with take_turns() as turns:
        turns.allow(AHEAD)
        rows = iter(noted_stream(turns, tmp_path).iter_rows())
        assert next(rows)["id"] == 0
        turns.allow(NUM)
        turns.allow(AHEAD)
        wait_until(lambda: num_noted(tmp_path) == NUM, limit_s=120)
        assert [row["id"] for row in rows] == list(range(1, NUM))
