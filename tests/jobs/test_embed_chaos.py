"""Embedding under seeded schedules of kills, on a cluster of several nodes and on every kind of storage.

After each: every sample once, and the vectors of the undisturbed run.
"""

import itertools
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.cluster_utils import Cluster

from jobs import cli
from jobs.verify_corpus import Args as VerifyArgs
from jobs.verify_corpus import main as verify
from pipelines import storage
from pipelines.corpus import read_committed, read_corpus, read_quarantine
from pipelines.manifest import load_manifest
from pipelines.part_files import part_files
from tests import embed_faults, servers
from tests.swift import swift_server
from tests.test_layers import ROOT
from tests.worlds import write_model, write_shards

SEED = 20262
NUM_ROWS, PART_ROWS = 90, 4
FLAWS = {3: "bad_container", 8: "no_video", 9: "changed_bytes", 50: "bad_container"}
SIZES = ["--part-rows", str(PART_ROWS), "--batch-size", "2", "--num-actors", "2", "--cpus-per-actor", "1.5"]
COLUMNS = ["--dtype", "float32", "--extra-columns", "vector_unfused", "selected_tokens"]
TERMS = ["--max-rejected", "20%", "--tracking", "none"]
DRIVER = """
import os, sys, ray
from jobs import embed_corpus
from tests.embed_faults import VARIABLES
faults = {name: os.environ[name] for name in VARIABLES if name in os.environ}
hook = {"worker_process_setup_hook": "tests.embed_faults.install"} if faults else {}
# The nodes are older than the store.
variables = faults | {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
ray.init(os.environ["RAY_ADDRESS"], runtime_env={"env_vars": variables, **hook}, log_to_driver=False)
embed_corpus.cli()
"""


class Nodes:
    """A head, and two nodes that can be lost."""

    def __init__(self) -> None:
        head = {"num_cpus": 3, "object_store_memory": 200 * 2**20, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.others = [self._add(), self._add()]

    def _add(self) -> Any:
        return self.cluster.add_node(num_cpus=3, object_store_memory=200 * 2**20)

    def replace(self, number: int) -> None:
        """Lose a node with all that it holds, and get another one."""
        self.cluster.remove_node(self.others.pop(number), allow_graceful=False)
        self.others.append(self._add())


class Job:
    """The command in a process of its own, which can be killed and given again."""

    def __init__(self, nodes: Nodes, root: str, out: str, log: Path, *, env: dict[str, str] | None = None):
        places = ["--model", f"{root}/model", "--manifest", f"{root}/shards", "--out", out]
        self._options, self._log = [*places, *SIZES, *COLUMNS, *TERMS], log
        path = {"RAY_ADDRESS": nodes.cluster.address, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self._env, self.out = os.environ | path | (env or {}), out
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-c", DRIVER, *self._options, "--json", f"{self._log}.json"]
        with self._log.open("a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=self._env, cwd=self._log.parent)

    @property
    def log(self) -> str:
        return self._log.read_text()[-4000:]

    def num_parts(self) -> int:
        return sum(1 for _ in part_files(self.out))

    def wait_until(self, ready: Callable[[], object], *, timeout_s: float = 400) -> None:
        deadline = time.monotonic() + timeout_s
        while not ready():
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.05)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def finish(self, *, timeout_s: float = 600) -> dict[str, Any]:
        self.process.wait(timeout=timeout_s)
        assert self.process.returncode == cli.DONE, self.log
        return json.loads(Path(f"{self._log}.json").read_text())


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    # Nodes inherit this: hooks of jobs are found by their processes.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        made = Nodes()
        yield made
        made.cluster.shutdown()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    write_shards(root / "shards", NUM_ROWS, flaws=FLAWS)
    write_model(root / "model")
    return root


@pytest.fixture(scope="module")
def undisturbed(nodes: Nodes, world: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("undisturbed")
    Job(nodes, str(world), f"{folder}/corpus", folder / "log").finish()
    return f"{folder}/corpus"


@pytest.fixture(params=["disk", "moto", "swift"])
def root(request: pytest.FixtureRequest, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where shards and model lie, and the corpus shall: the world itself, or its copy in a bucket."""
    if request.param == "disk":
        yield str(world)
    elif request.param == "moto":
        yield copied(world, f"{request.getfixturevalue('s3_server')}/{tmp_path.name}")
    else:
        (tmp_path / "swift").mkdir()
        with swift_server(tmp_path / "swift") as env:
            yield copied(world, f"{servers.use_s3(env, monkeypatch)}/chaos")


def copied(world: Path, url: str) -> str:
    for file in [*(world / "model").iterdir(), *(world / "shards").iterdir()]:
        storage.upload(file, f"{url}/{file.relative_to(world)}")
    return url


def store_env() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_")}


def require_same(out: str, undisturbed: str, root: str) -> None:
    """The invariant, from storage, and what stands in the corpus of the undisturbed run."""
    report = verify(VerifyArgs(corpus=out, manifest=f"{root}/shards"))
    assert report.summary["problems"] == []
    assert report.summary["num_left_over"] == 0
    for column in ("vector", "vector_unfused"):
        got, wanted = read_corpus(out, column=column), read_corpus(undisturbed, column=column)
        assert (got.uids, got.video_ids, got.keys) == (wanted.uids, wanted.video_ids, wanted.keys)
        np.testing.assert_array_equal(got.vectors, wanted.vectors)
    uids = load_manifest(f"{root}/shards").table.column("uid").to_pylist()
    assert sorted([*got.uids, *read_quarantine(out).column("uid").to_pylist()]) == sorted(uids)
    assert read_committed(out)["parts"] == read_committed(undisturbed)["parts"]
    assert read_quarantine(out).equals(read_quarantine(undisturbed))


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_kills_change_nothing(nodes: Nodes, root: str, undisturbed: str, tmp_path: Path) -> None:
    """Workers of all kinds die at chosen places, and from outside the driver dies twice and a node once."""
    chance = random.Random(f"{SEED} {root[:2]}")  # noqa: S311
    num_parts = len(read_committed(undisturbed)["parts"])
    after = sorted(chance.sample(range(2, num_parts - 4), 3))
    kinds = chance.sample(["driver", "driver", "node"], 3)
    print(f"seed {SEED}: {list(zip(after, kinds, strict=True))}")
    env = embed_faults.settings(tmp_path / "deaths", seed=SEED, share=0.12)
    job = Job(nodes, root, f"{root}/killed-{tmp_path.name}", tmp_path / "log", env=env | store_env())
    for number, kind in zip(after, kinds, strict=True):
        job.wait_until(lambda number=number: job.num_parts() >= number)
        time.sleep(chance.random() / 2)
        if kind == "node":
            nodes.replace(chance.randrange(2))
        else:
            job.kill()
            job.start()
    job.finish()
    dead = embed_faults.deaths(tmp_path / "deaths")
    print({place: len(list(group)) for place, group in itertools.groupby(dead)})
    assert set(dead) == set(embed_faults.PLACES)
    require_same(job.out, undisturbed, root)
    job.start()
    assert job.finish()["embedded_now"] == 0


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_jobs_at_once_make_one_corpus(nodes: Nodes, world: Path, undisturbed: str, tmp_path: Path) -> None:
    out = str(tmp_path / "corpus")
    jobs = [Job(nodes, str(world), out, tmp_path / f"log-{number}") for number in range(2)]
    told = [job.finish() for job in jobs]
    assert [each["num_embedded"] for each in told] == [NUM_ROWS - len(FLAWS)] * 2
    require_same(out, undisturbed, str(world))
