"""The job's budget, its no-op, and what it records."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.cli import DONE, OVER_BUDGET
from jobs.embed_corpus import Args, main
from jobs.verify_corpus import Args as VerifyArgs
from jobs.verify_corpus import main as verify
from pipelines import storage
from pipelines.embed import EmbedSettings
from tests.worlds import write_model, write_shards


def args_for(root, **changes):
    args = Args(
        model=str(root / "model"),
        manifest=str(root / "shards"),
        out=str(root / "corpus"),
        settings=EmbedSettings(part_rows=8, batch_size=8),
        tracking="none",
    )
    return dataclasses.replace(args, **changes)


def test_a_corpus_over_its_budget_is_complete_all_the_same(ray_local, tmp_path):
    model_id = write_model(tmp_path / "model")
    write_shards(tmp_path / "shards", 10, flaws={4: "bad_container"})
    (tmp_path / "model" / "training.json").write_text(json.dumps({"select_on": "val", "mlflow_run_id": "abc"}))
    first = main(args_for(tmp_path, max_rejected="5%"))
    assert first.exit_code == OVER_BUDGET
    assert (first.summary["num_embedded"], first.summary["num_rejected"]) == (9, 1)
    assert first.summary["rejected"] == {"bad_container": 1}
    meta = json.loads((tmp_path / "corpus" / "_COMMITTED.json").read_text())
    assert (meta["model_id"], meta["model_run_id"], meta["model"]) == (model_id, "abc", str(tmp_path / "model"))
    assert (meta["speed"]["num_videos"], meta["speed"]["num_actors"]) == (10, 1)
    assert meta["speed"]["seconds"] > 0
    assert verify(VerifyArgs(corpus=str(tmp_path / "corpus"))).exit_code == DONE
    again = main(args_for(tmp_path, max_rejected="10%"))
    assert again.exit_code == DONE
    assert again.summary["embedded_now"] == 0
    assert "nothing was missing" in again.summary["note"]


def test_requests_that_cannot_work_stop_before_anything_starts(tmp_path):
    write_model(tmp_path / "model")
    with pytest.raises(ValueError, match="index_shards"):
        main(args_for(tmp_path))
    write_shards(tmp_path / "shards", 1)
    with pytest.raises(ValueError, match=r"no config\.json"):
        main(args_for(tmp_path, model=str(tmp_path / "nowhere")))
    with pytest.raises(ValueError, match="multiple of batch_size"):
        EmbedSettings(part_rows=9, batch_size=8)
    assert not (tmp_path / "corpus").exists()


def test_more_than_the_cluster_has_is_refused_instead_of_waited_for(ray_local, tmp_path):
    write_model(tmp_path / "model")
    write_shards(tmp_path / "shards", 1)
    with pytest.raises(ValueError, match="embedding wants 201 CPUs"):
        main(args_for(tmp_path, settings=EmbedSettings(num_actors=100)))


@pytest.mark.slow
def test_everything_may_lie_in_a_bucket(s3_server, tmp_path):
    """Shards, model and corpus in object storage, through the command line, on a cluster of its own."""
    write_model(tmp_path / "model")
    write_shards(tmp_path / "shards", 10, flaws={4: "bad_container"})
    for file in [*(tmp_path / "model").iterdir(), *(tmp_path / "shards").iterdir()]:
        storage.upload(file, f"{s3_server}/bucket-world/{file.relative_to(tmp_path)}")
    places = {name: f"{s3_server}/bucket-world/{name}" for name in ("model", "shards", "corpus")}
    options = ["--max-rejected", "20%", "--part-rows", "4", "--batch-size", "4", "--tracking", "none"]
    command = ["-m", "jobs.embed_corpus", "--model", places["model"], "--manifest", places["shards"]]
    job = subprocess.run(
        [sys.executable, *command, "--out", places["corpus"], *options],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert job.returncode == DONE, job.stderr
    report = verify(VerifyArgs(corpus=places["corpus"]))
    assert report.summary["sound"]
    assert (report.summary["num_embedded"], report.summary["num_rejected"]) == (9, 1)
