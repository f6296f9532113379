"""The same commands against object storage: shards, manifest, model and corpus live in a bucket."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from jobs import cli, verify_corpus
from pipelines import storage
from tests import servers
from tests.shards import make_shards
from tests.swift import swift_server
from tests.test_layers import ROOT
from tests.worlds import write_model


@pytest.fixture(params=["moto", pytest.param("swift", marks=pytest.mark.slow)])
def bucket(request, tmp_path, monkeypatch) -> Iterator[str]:
    """The URL of a bucket that this process and those it starts find by themselves."""
    if request.param == "moto":
        yield request.getfixturevalue("s3_server")
        return
    (tmp_path / "swift").mkdir()
    with swift_server(tmp_path / "swift") as env:
        yield servers.use_s3(env, monkeypatch)


def test_corpus_is_made_and_proved_in_a_bucket(bucket, tmp_path):
    shards, corpus = f"{bucket}/bucket-test/shards", f"{bucket}/bucket-test/corpus"
    make_shards(tmp_path / "world", shards, test=12, corrupt=1)
    model_id = write_model(tmp_path / "model")
    for path in (tmp_path / "model").iterdir():
        storage.upload(path, f"{bucket}/model/{path.name}")

    # A process of its own: Ray's workers take their environment from the process that starts them.
    command = [sys.executable, "-m", "jobs.embed_corpus", "--model", f"{bucket}/model", "--manifest", f"{shards}/test"]
    command += ["--out", corpus, "--part-rows", "4", "--batch-size", "4"]
    command += ["--max-rejected", "50%", "--tracking", "none", "--json", str(tmp_path / "embed.json")]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == cli.DONE, done.stderr[-3000:]
    result = json.loads((tmp_path / "embed.json").read_text())
    assert result["model_id"] == model_id
    assert (result["num_embedded"], result["num_rejected"]) == (12, 1)

    report = verify_corpus.main(verify_corpus.Args(corpus=corpus))
    assert report.exit_code == cli.DONE, report.summary["problems"]
    assert len(storage.list_files(f"{corpus}/parts", suffix=".parquet")) == 4
