"""A training on nodes that ``ray start`` made: it grows, is stopped, loses a node after a notice, and its driver."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from ray.job_submission import JobStatus, JobSubmissionClient

from cluster.checkpoints import Checkpoint
from tests.chaos import (
    ALONE,
    ELASTIC,
    Training,
    require_no_step_lost,
    require_planned,
    require_same,
    write_world,
)
from tests.servers import BIN, RayHead, ray_head, ray_node
from tests.test_layers import ROOT
from tests.waiting import wait_until

SIZES = ["--model.preprocess.num-frames", "12", "--global-batch", "8", "--epochs", "120"]
PACE = ["--monitor.checkpoint-every", "100000", "--placement.grow-after-s", "3"]
# Nodes join while a training keeps the machine busy.
SLOW_START = {"RAY_raylet_start_wait_time_s": "300", "RAY_agent_register_timeout_ms": "300000"}
MORE_ENV = {"OMP_NUM_THREADS": "1", "RAY_JOB_STOP_WAIT_TIME_S": "120"} | SLOW_START


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not tmp_path: Ray's sockets do not fit below a path that long.
    with tempfile.TemporaryDirectory(prefix="ray") as made:
        yield Path(made)


@pytest.fixture
def head(folder: Path) -> Iterator[RayHead]:
    """A head with a CPU for decoding."""
    with ray_head(folder, num_cpus=1, more_env=MORE_ENV) as cluster:
        yield cluster


class Submitted(Training):
    """The training as a job of the cluster, once it is submitted."""

    def __init__(self, head: RayHead, world: Path, run: str, *options: str):
        super().__init__(world, run, *options)
        token = Path(head.env["RAY_AUTH_TOKEN_PATH"]).read_text()
        self.client = JobSubmissionClient(head.dashboard, headers={"Authorization": f"Bearer {token}"})
        self.head, self.job = head, ""

    def submit(self) -> None:
        line = shlex.join(["python", "-m", "jobs.train", *self.arguments])
        self.job = self.client.submit_job(entrypoint=line, runtime_env={"working_dir": str(ROOT)})

    def status(self) -> JobStatus:
        return self.client.get_job_status(self.job)

    def is_running(self) -> bool:
        return not self.status().is_terminal()

    def ends(self, status: JobStatus) -> None:
        wait_until(lambda: not self.is_running(), limit_s=600, told=lambda: self.log()[-4000:])
        assert self.status() == status, self.log()[-4000:]

    def log(self) -> str:
        return self.client.get_job_logs(self.job)

    def newest(self) -> Checkpoint:
        return next(self.store.complete())

    def driver(self) -> psutil.Process:
        """The process below the one that waits for it."""
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or [""]
            if {"jobs.train", self.folder.name} <= set(words) and "python" in Path(words[0]).name:
                return process
        raise AssertionError("the job has no process")

    def ray(self, *words: str) -> str:
        done = subprocess.run(
            [str(BIN / "ray"), *words], env=self.head.env, check=True, timeout=100, capture_output=True
        )
        return done.stdout.decode()

    def nodes(self) -> set[str]:
        """Ids of the nodes that are alive."""
        told = self.ray("list", "nodes", "--address", self.head.dashboard, "--format", "json")
        return {node["node_id"] for node in json.loads(told) if node["state"] == "ALIVE"}

    def announce_loss(self, node: str) -> None:
        """What a cloud's notice becomes: this node will be gone in a minute."""
        reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
        where = ["--address", self.head.address, "--node-id", node]
        self.ray("drain-node", *where, *reason, "--deadline-remaining-seconds", "60")


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_growth_stop_notice_and_a_killed_driver_change_nothing(head: RayHead, folder: Path, tmp_path: Path) -> None:
    world = write_world(tmp_path)
    undisturbed = Training(world, "undisturbed", *SIZES, *PACE, *ALONE)
    undisturbed.start(address="local")
    undisturbed.finish()
    require_planned(undisturbed, world)

    training = Submitted(head, world, "submitted", *SIZES, *PACE, *ELASTIC)
    with contextlib.ExitStack() as stack:
        stack.enter_context(ray_node(folder, head))
        training.submit()
        training.reaches(1)
        assert "there is room for 1 of 2 workers" in training.log()

        # growth
        small = training.nodes()
        second = stack.enter_context(ray_node(folder, head))
        training.wait_until(lambda: "goes on from step" in training.log())
        grown = training.newest()
        training.reaches(grown.batch + 2)
        assert training.log().count("there is room for 1 of 2 workers") == 1

        # ray job stop
        training.client.stop_job(training.job)
        training.ends(JobStatus.STOPPED)
        stopped = require_no_step_lost(training, world)
        assert stopped.batch > grown.batch
        training.submit()
        training.reaches(stopped.batch + 1)

        # notice, and loss of the node
        (node,) = training.nodes() - small
        training.announce_loss(node)
        training.wait_until(lambda: training.newest().batch > stopped.batch)
        os.killpg(second.pid, signal.SIGKILL)
        saved = training.newest()
        training.reaches(saved.batch + 2)

        # loss of the driver
        training.driver().kill()
        training.ends(JobStatus.FAILED)
        training.submit()
        training.ends(JobStatus.SUCCEEDED)
    require_same(training, undisturbed)
