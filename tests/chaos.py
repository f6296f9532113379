"""Trainings that are killed and given again, and what must hold of them afterwards."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections import defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.checkpoints import Checkpoint, CheckpointStore
from fpig_core.schedule import Phase
from jobs import train
from jobs.run_setup import make_plan
from pipelines.manifest import Manifest, load_manifest
from pipelines.plan import EMPTY
from tests.runs import require_same_state
from tests.worlds import write_shards

BAD_KEY = "000003"
TERMS = ["--monitor.log-every", "1", "--monitor.record-steps", "--model.num-selected", "4", "--max-rejected", "10%"]
TERMS += ["--model.backbone.pretrained", "", "--tracking", "none", "--placement.decode-cpus", "1"]
ALONE = ["--placement.num-workers", "1"]
ELASTIC = ["--placement.num-workers", "2", "--placement.min-workers", "1"]


def write_world(root: Path) -> Path:
    """A training set with one video that cannot be decoded, and a validation set."""
    write_shards(root / "train", 24, flaws={int(BAD_KEY): "bad_container"})
    write_shards(root / "val", 4)
    return root


class Training:
    """The training command as a process of its own, which can be killed and given again."""

    def __init__(self, world: Path, run: str, *options: str):
        data = ["--data.train", str(world / "train"), "--data.val", str(world / "val")]
        where = ["--placement.storage", str(world / "runs"), "--name", run]
        self.arguments, self.folder = ["demo", *data, *where, *TERMS, *options], world / "runs" / run
        self.log_path = world / f"{run}.log"
        self.store = CheckpointStore(str(self.folder / "checkpoints"))

    def start(self, *, address: str) -> None:
        """``address``: of a Ray cluster, or local."""
        env = os.environ | {"RAY_ADDRESS": address, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "jobs.train", *self.arguments]
        with self.log_path.open("a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env)
        weakref.finalize(self, self.process.kill)  # after a failed test, too
        self.started = time.time()

    def is_running(self) -> bool:
        return self.process.poll() is None

    def log(self) -> str:
        return self.log_path.read_text()

    def records(self) -> dict[int, list[dict]]:
        """Batch -> what each attempt at it told."""
        told = defaultdict(list)
        for path in sorted((self.folder / "steps").glob("*.jsonl")):
            for line in path.read_text().splitlines():
                told[json.loads(line)["batch"]].append(json.loads(line))
        return told

    def wait_until(self, ready: Callable[[], object], *, timeout_s: float = 400, every_s: float = 0.05) -> Any:
        """What ``ready`` gives once it is something."""
        deadline = time.monotonic() + timeout_s
        while not (found := ready()):
            assert self.is_running(), self.log()[-4000:]
            assert time.monotonic() < deadline, self.log()[-4000:]
            time.sleep(every_s)
        return found

    def last_batch(self) -> int:
        """The last batch that was told of, −1 before the first."""
        return max(self.records(), default=-1)

    def reaches(self, batch: int) -> None:
        self.wait_until(lambda: self.last_batch() >= batch)

    def finish(self, *, code: int = 0) -> None:
        self.process.wait(timeout=600)
        assert self.process.returncode == code, self.log()[-4000:]


Choose = Callable[[], psutil.Process]
"""One of the workers that there are now."""


def kill_in_mid_save(training: Training, choose: Choose) -> None:
    """SIGKILL a worker while states are written to local disks, before anything of them is on storage."""
    local = Path(tempfile.gettempdir())
    _kill_between(
        training,
        choose,
        begun=lambda: set(local.glob("fpig-checkpoint-*")),
        done=lambda: set(training.store.folders()),
    )


def kill_in_mid_upload(training: Training, choose: Choose) -> None:
    """SIGKILL a worker when a part of a checkpoint is on storage, and the whole is not."""
    _kill_between(
        training,
        choose,
        begun=lambda: set(training.store.folders()),
        done=lambda: {checkpoint.folder for checkpoint in training.store.complete()},
    )


def _kill_between(training: Training, choose: Choose, *, begun: Callable[[], set], done: Callable[[], set]) -> None:
    """Stop a worker when there is more that was begun, and kill it unless there is more that is done as well.

    Otherwise it was too late: the worker goes on until the next time.
    """
    while True:
        worker, begun_before = choose(), begun()
        looks = deque([done()], maxlen=2)

        def begins(looks: deque[set] = looks, begun_before: set = begun_before) -> set:
            looks.append(done())
            return begun() - begun_before

        training.wait_until(begins, every_s=0)
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.send_signal(signal.SIGSTOP)
            # The look before found nothing new, so what is done since then is what has begun.
            is_late = done() - looks[0]
            worker.send_signal(signal.SIGCONT if is_late else signal.SIGKILL)
            if not is_late:
                return


def planned(world: Path, training: Training) -> dict[int, list[str]]:
    """The oracle: uids of every training batch, from the plan alone, without the one that cannot be decoded."""
    experiment = train.read_args(training.arguments).experiment
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
            uids[batch] = [row["uid"] for row in rows if row["key"] != BAD_KEY]
    return uids


def require_planned(training: Training, world: Path) -> None:
    """Every batch once, with the uids of the plan."""
    told = {batch: [attempt["uids"] for attempt in attempts] for batch, attempts in training.records().items()}
    assert told == {batch: [uids] for batch, uids in planned(world, training).items()}


def require_no_step_lost(training: Training, world: Path) -> Checkpoint:
    """The newest checkpoint stands behind the last step that was told of; a validation may stand between them."""
    newest = next(training.store.complete())
    assert training.records().keys() == {batch for batch in planned(world, training) if batch < newest.batch}
    return newest


def require_same(training: Training, undisturbed: Training) -> None:
    """Every attempt at every batch saw the same uids and had the same loss, and the same came out."""
    wanted = {batch: attempts[0] for batch, attempts in undisturbed.records().items()}
    records = training.records()
    assert records.keys() == wanted.keys()
    for batch, attempts in records.items():
        for told in attempts:
            assert told["uids"] == wanted[batch]["uids"]
            assert told["loss"] == pytest.approx(wanted[batch]["loss"], rel=1e-3, abs=1e-3)
    require_same_state(undisturbed.folder, training.folder)
    assert (training.folder / "rejected.jsonl").read_text().count("\n") == 1
