"""What a worker makes of its batches, with steps that only take time."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from cluster import meter as meter_module
from cluster.task import Monitor
from fpig_core.schedule import Schedule
from tests.cluster.gloo import run_workers
from tests.cluster.pulses import Silent
from tests.cluster.test_meter import Clock, block

SCHEDULE = Schedule(num_train=5, num_val=3, global_batch=1, epochs=3)
STEP_S, VALIDATION_S = 2.0, 50.0


def work(rank: int, num_workers: int) -> list[float]:
    """The samples per second of each metric point of a worker that makes one every third step."""
    from cluster.worker import TrainWorker

    clock = Clock()
    setattr(meter_module, "time", clock)  # noqa: B010  # a module for a module, to a type checker

    class Vote:
        def cast(self, *wishes: bool) -> list[bool]:
            return list(wishes)

    class Worker(TrainWorker):
        def __init__(self) -> None:
            self.schedule, self.monitor = SCHEDULE, Monitor(log_every=3, checkpoint_every=10**6)
            self.pulse: Any = type("Pulse", (Silent,), {"should_stop": False})()
            self.meter, self.vote = meter_module.Meter(torch.device("cpu"), self.pulse), Vote()
            self.rank, self.preemption, self.was_preempted, self.rates = rank, None, False, []

        def _check_place(self, block: dict[str, Any], batch: int) -> None: ...
        def _save(self, batch: int) -> None: ...
        def _is_time_to_tell(self) -> bool:
            return False

        def _train(self, block: dict[str, Any], batch: int) -> None:
            clock.now += STEP_S
            self.meter.note_step({"loss": torch.tensor(1.0)}, block)
            if self.schedule.steps_before(batch + 1) % self.monitor.log_every == 0:
                self.rates.append(self.meter.take()["samples_per_s"])

        def _validate(self, block: dict[str, Any], batch: int) -> None:
            clock.now += VALIDATION_S

    def stream() -> Iterator[dict]:
        for batch in range(SCHEDULE.num_batches):
            clock.now += 1.0 if SCHEDULE.place(batch).phase == "train" else VALIDATION_S
            yield block(rank, batch)

    worker = Worker()
    clock.now += VALIDATION_S
    worker._work(stream(), first_batch=0, end_step=lambda: None)
    return worker.rates


def test_rates_do_not_depend_on_validations_or_the_start() -> None:
    (rates,) = run_workers(work, 1)
    assert rates == pytest.approx([2 / (1.0 + STEP_S)] * (SCHEDULE.num_steps // 3))
