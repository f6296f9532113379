"""Submitting to a real Ray cluster that demands its token: training, then embedding with the model it made."""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fpig_core.bundle import load_bundle
from jobs import checks, cli, verify_corpus
from tests.servers import BIN, RayHead, ray_head
from tests.shards import make_shards
from tests.test_layers import ROOT


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    # Not tmp_path: Ray's sockets do not fit below a path that long.
    with tempfile.TemporaryDirectory(prefix="ray") as folder, ray_head(Path(folder)) as cluster:
        yield cluster


def submit(head: RayHead, *command: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    line = [str(BIN / "ray"), "job", "submit", "--address", head.dashboard, "--working-dir", str(ROOT), "--", *command]
    done = subprocess.run(line, env=env or head.env, capture_output=True, text=True, timeout=280)
    print(done.stdout, done.stderr)  # shown if the test fails
    return done


def without_token() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {"HOME": "/nonexistent"}


def test_a_submission_without_the_token_is_refused(head, tmp_path):
    done = submit(head, "touch", str(tmp_path / "ran"), env=without_token())
    assert done.returncode != 0
    assert "Missing authentication token" in done.stderr + done.stdout
    assert not (tmp_path / "ran").exists()


def test_the_doctor_tells_a_missing_token_from_a_cluster_that_is_away(head, monkeypatch):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    refused = checks.check_ray(head.address)
    assert refused.state == "fail"
    assert "RAY_AUTH_MODE=token" in refused.remedy
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, head.env[name])
    assert checks.check_ray(head.address).found.endswith("8 CPUs, 0 GPUs")


def test_train_then_embed_as_submitted_jobs(head, tmp_path):
    make_shards(tmp_path / "world", str(tmp_path / "shards"), train=16, val=8, test=9, corrupt=1)
    shards, runs, corpus = tmp_path / "shards", tmp_path / "runs", tmp_path / "corpus"

    train = ["python", "-m", "jobs.train", "demo", "--data.train", f"{shards}/train", "--data.val", f"{shards}/val"]
    train += ["--model.backbone.pretrained", "", "--model.preprocess.num-frames", "3", "--global-batch", "8"]
    train += ["--epochs", "1", "--placement.num-workers", "2", "--placement.storage", str(runs), "--tracking", "none"]
    done = submit(head, *train, "--json", str(tmp_path / "train.json"))
    assert done.returncode == 0
    trained = json.loads((tmp_path / "train.json").read_text())
    assert trained["num_steps"] == 2
    assert load_bundle(trained["model"]).model_id == trained["model_id"]

    embed = ["python", "-m", "jobs.embed_corpus", "--model", trained["model"], "--manifest", f"{shards}/test"]
    embed += ["--out", str(corpus), "--part-rows", "4", "--batch-size", "4", "--max-rejected", "50%"]
    done = submit(head, *embed, "--tracking", "none", "--json", str(tmp_path / "embed.json"))
    assert done.returncode == 0
    embedded = json.loads((tmp_path / "embed.json").read_text())
    assert embedded["model_id"] == trained["model_id"]
    assert (embedded["num_embedded"], embedded["num_rejected"]) == (9, 1)
    assert verify_corpus.main(verify_corpus.Args(corpus=str(corpus))).exit_code == cli.DONE
