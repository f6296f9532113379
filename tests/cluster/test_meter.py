"""Metric points: means over steps and workers, rates of training alone, the videos of a loss that is no number."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from cluster import meter as meter_module
from cluster.meter import LossError, Meter
from tests.cluster.gloo import run_workers
from tests.cluster.pulses import Silent


def block(rank: int, batch: int) -> dict:
    uids = np.array([f"uid-{batch}-{rank}-{row}" for row in range(2)], dtype=object)
    return {"uid": uids, "ok": np.array([True, rank == 0]), "reason": np.array(["", "bad_container"], dtype=object)}


def meter_steps(rank: int, num_workers: int, broken: int) -> tuple[dict, list, list]:
    meter = Meter(torch.device("cpu"), Silent())  # pyright: ignore[reportArgumentType]
    blocks = [block(rank, batch) for batch in range(5, 8)]
    for batch, given in meter.timed(blocks, first_batch=5):
        meter.note_rejected(given)
        loss = math.nan if batch == broken and rank == 1 else 10.0 * batch + rank
        meter.enter("forward")
        meter.note_step({"loss": torch.tensor(loss)}, given)
    try:
        metrics = meter.take()
    except LossError as error:
        return {"error": str(error)}, [], []
    return metrics, meter.steps, meter.rejected


@pytest.fixture(scope="module")
def workers() -> list:
    return run_workers(meter_steps, 2, 0)


def test_a_point_is_the_mean_over_steps_and_workers(workers: list) -> None:
    for metrics, *_ in workers:
        assert metrics["loss"] == pytest.approx(60.5)
        assert metrics["samples_per_s"] > 0
        assert 0 <= metrics["data_wait_share"] <= 1
        assert metrics["backward_s"] == 0


def test_every_step_is_told_with_the_uids_of_each_worker(workers: list) -> None:
    assert [step["batch"] for step in workers[0][1]] == [5, 6, 7]
    assert [step["loss"] for step in workers[1][1]] == pytest.approx([50.5, 60.5, 70.5])
    assert workers[0][1][1]["uids"] == ["uid-6-0-0", "uid-6-0-1"]
    assert workers[1][1][1]["uids"] == ["uid-6-1-0"]
    assert [sample["uid"] for sample in workers[1][2]] == ["uid-5-1-1", "uid-6-1-1", "uid-7-1-1"]


def test_a_loss_that_is_no_number_names_the_batch_and_its_videos_on_every_worker() -> None:
    for told, *_ in run_workers(meter_steps, 2, 6):
        assert "batch 6: loss nan" in told["error"]
        assert "uid-6-0-0 uid-6-0-1 uid-6-1-0." in told["error"]


PHASES = "TTTVVTTTVVTT"
"""Of each batch: training, or validation."""
POINTS = (1, 4, 6, 11)
DATA_S, TRANSFER_S, FORWARD_S, TELLING_S = 1.0, 0.5, 2.0, 0.25


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    perf_counter = monotonic


def take_points(rank: int, num_workers: int) -> list[dict[str, float]]:
    clock = Clock()
    setattr(meter_module, "time", clock)  # noqa: B010  # a module for a module, to a type checker

    def stream() -> Iterator[dict]:
        for batch, phase in enumerate(PHASES):
            clock.now += DATA_S if phase == "T" else 70.0
            yield block(rank, batch)

    meter = Meter(torch.device("cpu"), Silent())  # pyright: ignore[reportArgumentType]
    clock.now += 100.0  # the model is built, a checkpoint loaded
    points = []
    for batch, given in meter.timed(stream(), first_batch=0):
        if PHASES[batch] == "T":
            clock.now += TRANSFER_S
            meter.enter("forward")
            clock.now += FORWARD_S
            meter.note_step({"loss": torch.tensor(1.0)}, given)
        else:
            meter.leave_out()
            clock.now += 7.0
            with meter.inside("gather"):
                clock.now += 3.0
            meter.enter("validation")
            clock.now += 30.0
        if batch in POINTS:
            points.append(meter.take())
            clock.now += TELLING_S
    return points


def test_rates_are_those_of_training_alone_and_of_telling() -> None:
    """Neither the start of a group counts, nor a validation, nor a point that is taken in one."""
    (points,) = run_workers(take_points, 1)
    for point, (num_steps, telling) in zip(points, [(2, 0), (1, 1), (2, 0), (3, 1)], strict=True):
        elapsed = num_steps * (DATA_S + TRANSFER_S + FORWARD_S) + telling * TELLING_S
        assert point["samples_per_s"] == pytest.approx(num_steps * 2 / elapsed)
        assert point["data_wait_share"] == pytest.approx(num_steps * DATA_S / elapsed)
        stages = [point[f"{stage}_s"] for stage in ("data", "transfer", "forward", "gather")]
        assert stages == pytest.approx([DATA_S, TRANSFER_S, FORWARD_S, 0.0])
