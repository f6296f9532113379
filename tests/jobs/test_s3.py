"""The same commands against object storage: shards, manifest, model and corpus live in a bucket."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import cli, verify_corpus
from pipelines import storage
from tests import servers
from tests.shards import make_shards
from tests.swift import swift_server
from tests.test_layers import ROOT


@pytest.fixture(params=["moto", "swift"])
def bucket(request, tmp_path, monkeypatch) -> Iterator[str]:
    """The URL of a bucket that this process and those it starts find by themselves."""
    if request.param == "moto":
        yield request.getfixturevalue("s3_server")
        return
    (tmp_path / "swift").mkdir()
    with swift_server(tmp_path / "swift") as env:
        yield servers.use_s3(env, monkeypatch)


def run_job(folder: Path, name: str, *options: str) -> tuple[dict, str]:
    """The result and the output of a job in a process of its own: Ray's workers take their environment from it."""
    result = folder / f"{name}.json"
    command = [sys.executable, "-m", f"jobs.{name}", *options, "--tracking", "none", "--json", str(result)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == cli.DONE, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(result.read_text()), done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_model_is_trained_and_a_corpus_proved_in_a_bucket(bucket, tmp_path):
    root = f"{bucket}/bucket-test"
    shards, corpus = f"{root}/shards", f"{root}/corpus"
    make_shards(tmp_path / "world", shards, train=8, val=4, test=12, corrupt=1)

    train = ["demo", "--data.train", f"{shards}/train", "--data.val", f"{shards}/val", "--name", "run"]
    train += ["--model.backbone.pretrained", "", "--model.preprocess.num-frames", "3", "--global-batch", "4"]
    train += ["--epochs", "1", "--placement.num-workers", "1", "--placement.storage", f"{root}/runs"]
    trained, _ = run_job(tmp_path, "train", *train)
    assert trained["model"] == f"{root}/runs/run/model"
    assert storage.list_files(f"{root}/runs/run/checkpoints", suffix="worker-00000-of-00001.json")
    again, output = run_job(tmp_path, "train", *train)
    assert again == trained
    assert "is finished; nothing to do" in output

    embed = ["--model", trained["model"], "--manifest", f"{shards}/test", "--out", corpus]
    embed += ["--part-rows", "4", "--batch-size", "4", "--max-rejected", "50%"]
    embedded, _ = run_job(tmp_path, "embed_corpus", *embed)
    assert embedded["model_id"] == trained["model_id"]
    assert (embedded["num_embedded"], embedded["num_rejected"]) == (12, 1)

    report = verify_corpus.main(verify_corpus.Args(corpus=corpus))
    assert report.exit_code == cli.DONE, report.summary["problems"]
    assert len(storage.list_files(f"{corpus}/parts", suffix=".parquet")) == 4
