"""Training under a seeded schedule of kills, on a cluster of several nodes: nothing that it learns from may change."""

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray.cluster_utils import Cluster

from tests.chaos import (
    ALONE,
    ELASTIC,
    Training,
    kill_in_mid_save,
    kill_in_mid_upload,
    require_no_step_lost,
    require_planned,
    require_same,
    write_world,
)

SEED = 20261
SIZES = ["--model.preprocess.num-frames", "3", "--global-batch", "4", "--epochs", "18"]
PACE = ["--monitor.checkpoint-every", "2", "--placement.grow-after-s", "5", "--placement.hang-after-s", "45"]
KINDS = ("worker", "node", "driver", "hang", "save", "upload")


class Nodes:
    """A head with a CPU for decoding, and two nodes with room for a worker each."""

    def __init__(self) -> None:
        head = {"num_cpus": 1, "include_dashboard": True, "object_store_memory": 200 * 2**20}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.others = [self._add(), self._add()]

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def _add(self) -> Any:
        return self.cluster.add_node(num_cpus=1, object_store_memory=200 * 2**20)

    def lose(self, number: int) -> None:
        self.cluster.remove_node(self.others.pop(number), allow_graceful=False)

    def restore(self) -> None:
        while len(self.others) < 2:
            self.others.append(self._add())

    def workers(self, training: Training) -> list[psutil.Process]:
        """The training workers on these nodes, without those that a killed driver has left behind."""
        nodes: list[Any] = [self.cluster.head_node, *self.others]
        raylets = {node.all_processes["raylet"][0].process.pid for node in nodes}
        return [
            process
            for raylet in raylets
            for process in psutil.Process(raylet).children(recursive=True)
            if "RayTrainWorker" in "".join(process.cmdline()[:1]) and process.create_time() > training.started
        ]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    made = Nodes()
    yield made
    made.cluster.shutdown()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def undisturbed(nodes: Nodes, world: Path) -> Training:
    training = Training(world, "undisturbed", *SIZES, *PACE, *ALONE)
    training.start(address=nodes.address)
    training.finish()
    require_planned(training, world)
    return training


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_kills_change_nothing(nodes: Nodes, world: Path, undisturbed: Training) -> None:
    chance = random.Random(SEED)  # noqa: S311
    batches = sorted(chance.sample(range(2, undisturbed.last_batch() - 4), len(KINDS)))
    kinds = chance.sample(KINDS, len(KINDS))
    print(f"seed {SEED}: {list(zip(batches, kinds, strict=True))}")
    training = Training(world, "killed", *SIZES, *PACE, *ELASTIC)
    training.start(address=nodes.address)
    for batch, kind in zip(batches, kinds, strict=True):
        training.reaches(max(batch, training.last_batch() + 1))
        time.sleep(chance.random())
        if kind == "node":
            nodes.lose(chance.randrange(2))
            training.reaches(batch + 1)
            nodes.restore()
        elif kind == "driver":
            training.process.kill()
            training.process.wait()
            training.start(address=nodes.address)
        else:

            def choose() -> psutil.Process:
                return chance.choice(training.wait_until(lambda: nodes.workers(training)))

            if kind == "save":
                kill_in_mid_save(training, choose)
            elif kind == "upload":
                kill_in_mid_upload(training, choose)
            elif kind == "worker":
                choose().send_signal(signal.SIGKILL)
            else:
                choose().send_signal(signal.SIGSTOP)
                training.wait_until(lambda: "ending it, to start again" in training.log())
    training.finish()
    require_same(training, undisturbed)
    assert "worker" in training.log()
    assert "stands at the" in training.log()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_stop_loses_no_step(nodes: Nodes, world: Path, undisturbed: Training) -> None:
    training = Training(world, "stopped", *SIZES, *PACE, *ELASTIC, "--monitor.checkpoint-every", "1000")
    training.start(address=nodes.address)
    training.reaches(2)
    training.process.send_signal(signal.SIGTERM)
    training.finish(code=143)
    assert "the same command goes on" in training.log()
    assert len(list(training.store.complete())) == 1
    require_no_step_lost(training, world)
    training.start(address=nodes.address)
    training.finish()
    attempts = {batch: len(attempts) for batch, attempts in training.records().items()}
    assert attempts == dict.fromkeys(undisturbed.records(), 1)
    require_same(training, undisturbed)
