"""Metric points: means over steps and workers, and the videos of a batch whose loss is no number."""

import math

import numpy as np
import pytest
import torch

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
