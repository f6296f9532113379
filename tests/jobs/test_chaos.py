"""Training under a seeded schedule of kills, on a cluster of several nodes: nothing that it learns from may change."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from ray.cluster_utils import Cluster

from cluster.checkpoints import CheckpointStore
from fpig_core.schedule import Phase
from jobs import train
from jobs.run_setup import make_plan
from pipelines.manifest import Manifest, load_manifest
from pipelines.plan import EMPTY
from tests.runs import last_state
from tests.worlds import write_shards

SEED = 20261
SIZES = ["--model.preprocess.num-frames", "3", "--model.num-selected", "4", "--global-batch", "4"]
PACE = ["--epochs", "4", "--monitor.checkpoint-every", "2", "--monitor.log-every", "1", "--monitor.record-steps"]
TERMS = ["--model.backbone.pretrained", "", "--max-rejected", "10%", "--tracking", "none"]
PLACES = ["--placement.decode-cpus", "1", "--placement.grow-after-s", "5", "--placement.hang-after-s", "45"]
ALONE = ["--placement.num-workers", "1"]
ELASTIC = ["--placement.num-workers", "2", "--placement.min-workers", "1"]


class Nodes:
    """A head with a CPU for decoding, and two nodes with room for a worker each."""

    def __init__(self) -> None:
        head = {"num_cpus": 1, "include_dashboard": True, "object_store_memory": 200 * 2**20}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.others = [self._add(), self._add()]

    def _add(self):
        return self.cluster.add_node(num_cpus=1, object_store_memory=200 * 2**20)

    def lose(self, number: int) -> None:
        self.cluster.remove_node(self.others.pop(number), allow_graceful=False)

    def restore(self) -> None:
        while len(self.others) < 2:
            self.others.append(self._add())

    def workers(self) -> list[psutil.Process]:
        """The training workers of this cluster."""
        nodes: list[Any] = [self.cluster.head_node, *self.others]
        raylets = {node.all_processes["raylet"][0].process.pid for node in nodes}
        return [
            process
            for raylet in raylets
            for process in psutil.Process(raylet).children(recursive=True)
            if "RayTrainWorker" in "".join(process.cmdline()[:1])
        ]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    made = Nodes()
    yield made
    made.cluster.shutdown()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    write_shards(root / "train", 24, flaws={3: "bad_container"})
    write_shards(root / "val", 4)
    return root


def options(world: Path, run: str) -> list[str]:
    data = ["--data.train", str(world / "train"), "--data.val", str(world / "val")]
    where = ["--placement.storage", str(world / "runs"), "--name", run]
    return ["demo", *data, *where, *SIZES, *PACE, *TERMS, *PLACES]


class Driver:
    """The training command, which can be killed and given again."""

    def __init__(self, nodes: Nodes, world: Path, run: str, *more: str):
        self.arguments, self.folder = [*options(world, run), *more], world / "runs" / run
        self._env = os.environ | {"RAY_ADDRESS": nodes.cluster.address, "OMP_NUM_THREADS": "1"}
        self._log = (world / f"{run}.log").open("a")
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "jobs.train", *self.arguments]
        self.process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT, env=self._env)

    def log(self) -> str:
        return Path(self._log.name).read_text()

    def records(self) -> dict[int, list[dict]]:
        """Batch -> what each attempt at it told."""
        told = defaultdict(list)
        for path in sorted((self.folder / "steps").glob("*.jsonl")):
            for line in path.read_text().splitlines():
                told[json.loads(line)["batch"]].append(json.loads(line))
        return told

    def wait_until(self, ready: Callable[[], object], *, timeout_s: float = 400) -> None:
        deadline = time.monotonic() + timeout_s
        while not ready():
            assert self.process.poll() is None, self.log()[-4000:]
            assert time.monotonic() < deadline, self.log()[-4000:]
            time.sleep(0.05)

    def reaches(self, batch: int) -> None:
        self.wait_until(lambda: max(self.records(), default=-1) >= batch)

    def finish(self, *, code: int = 0) -> None:
        self.process.wait(timeout=600)
        assert self.process.returncode == code, self.log()[-4000:]


def planned(world: Path, driver: Driver) -> dict[int, list[str]]:
    """The oracle: uids of every training batch, from the plan alone, without the one that cannot be decoded."""
    experiment = train.read_args(driver.arguments).experiment
    manifests: dict[Phase, Manifest] = {
        "train": load_manifest(str(world / "train")),
        "val": load_manifest(str(world / "val")),
    }
    plan = make_plan(experiment, manifests)
    uids = {}
    for batch in range(plan.schedule.num_batches):
        if plan.schedule.place(batch).phase == "train":
            samples = plan.samples(batch)
            rows = manifests["train"].take_captioned(samples[samples != EMPTY]).to_pylist()
            uids[batch] = [row["uid"] for row in rows if row["key"] != "000003"]
    return uids


@pytest.fixture(scope="module")
def undisturbed(nodes: Nodes, world: Path) -> Driver:
    driver = Driver(nodes, world, "undisturbed", *ALONE)
    driver.finish()
    assert {batch: [told["uids"] for told in attempts] for batch, attempts in driver.records().items()} == {
        batch: [uids] for batch, uids in planned(world, driver).items()
    }
    return driver


def require_same(driver: Driver, undisturbed: Driver) -> None:
    """Every attempt at every batch saw the same uids and had the same loss, and the same came out."""
    wanted = {batch: attempts[0] for batch, attempts in undisturbed.records().items()}
    records = driver.records()
    assert records.keys() == wanted.keys()
    for batch, attempts in records.items():
        for told in attempts:
            assert told["uids"] == wanted[batch]["uids"]
            assert told["loss"] == pytest.approx(wanted[batch]["loss"], rel=1e-3, abs=1e-3)
    whole, state = last_state(undisturbed.folder), last_state(driver.folder)
    assert state.keys() == whole.keys()
    # Adam turns rounding of a gradient near zero into a step of up to lr.
    assert all(torch.allclose(state[name], whole[name], rtol=1e-3, atol=1e-3) for name in whole)
    assert (driver.folder / "rejected.jsonl").read_text().count("\n") == 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kills_change_nothing(nodes: Nodes, world: Path, undisturbed: Driver) -> None:
    chance = random.Random(SEED)  # noqa: S311
    batches = sorted(chance.sample(range(2, max(undisturbed.records()) - 1), 4))
    kinds = chance.sample(["worker", "node", "driver", "hang"], 4)
    print(f"seed {SEED}: {list(zip(batches, kinds, strict=True))}")
    driver = Driver(nodes, world, "killed", *ELASTIC)
    for batch, kind in zip(batches, kinds, strict=True):
        driver.reaches(batch)
        time.sleep(chance.random())
        if kind == "worker":
            chance.choice(nodes.workers()).send_signal(signal.SIGKILL)
        elif kind == "hang":
            chance.choice(nodes.workers()).send_signal(signal.SIGSTOP)
            driver.wait_until(lambda: "ending it, to start again" in driver.log())
        elif kind == "node":
            nodes.lose(chance.randrange(2))
            driver.reaches(batch + 1)
            nodes.restore()
        else:
            driver.process.kill()
            driver.process.wait()
            driver.start()
    driver.finish()
    require_same(driver, undisturbed)
    assert "worker" in driver.log()
    assert "stands at the" in driver.log()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_stop_loses_no_step(nodes: Nodes, world: Path, undisturbed: Driver) -> None:
    driver = Driver(nodes, world, "stopped", *ELASTIC, "--monitor.checkpoint-every", "1000")
    driver.reaches(2)
    driver.process.send_signal(signal.SIGTERM)
    driver.finish(code=143)
    assert "the same command goes on" in driver.log()
    (newest,) = CheckpointStore(str(driver.folder / "checkpoints")).complete()
    assert newest.batch == max(driver.records()) + 1
    driver.start()
    driver.finish()
    assert {batch: len(attempts) for batch, attempts in driver.records().items()} == dict.fromkeys(
        undisturbed.records(), 1
    )
    require_same(driver, undisturbed)
