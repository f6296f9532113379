"""The job's budget, its no-op, and what it records."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from fpig_core.bundle import load_bundle, save_bundle
from fpig_core.models import build_model
from jobs.cli import DONE, OVER_BUDGET
from jobs.embed_corpus import Args, main
from jobs.tracking import output_run
from jobs.verify_corpus import Args as VerifyArgs
from jobs.verify_corpus import main as verify
from pipelines import storage
from pipelines.columns import offered_columns
from pipelines.corpus import read_columns, read_committed, read_corpus
from pipelines.decode import decode_frames
from pipelines.embed import EmbedSettings
from pipelines.parts import read_identity
from tests.methods import METHOD_CONFIGS
from tests.worlds import PREPROCESS, video_bytes, write_model, write_shards

SETTINGS = EmbedSettings(part_rows=8, batch_size=8)


def args_for(root, **changes):
    args = Args(
        model=str(root / "model"),
        manifest=str(root / "shards"),
        out=str(root / "corpus"),
        settings=SETTINGS,
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


def test_a_manifest_that_grew_is_embedded_where_it_grew(ray_local, tmp_path):
    """As int8, which keeps the vectors' lengths and nearly their directions."""
    write_model(tmp_path / "model")
    write_shards(tmp_path / "shards", 10)
    args = args_for(tmp_path, settings=dataclasses.replace(SETTINGS, dtype="int8", extra_columns=("pseudo_query",)))
    main(args)
    first = json.loads((tmp_path / "corpus" / "_COMMITTED.json").read_text())
    stamps = {file: file.stat().st_mtime_ns for file in (tmp_path / "corpus" / "parts").iterdir()}
    assert (len(first["parts"]), first["previous"]) == (2, [])
    # The second shard has another sample now, and there is a third one.
    write_shards(tmp_path / "shards", 19, flaws={10: "bad_container"})
    with pytest.raises(ValueError, match=r"holds 1 parts with videos that are not in this manifest.*--stale leave"):
        main(args)
    grown = main(dataclasses.replace(args, settings=dataclasses.replace(args.settings, stale="leave")))
    assert (grown.summary["num_samples"], grown.summary["embedded_now"]) == (19, 11)
    meta = json.loads((tmp_path / "corpus" / "_COMMITTED.json").read_text())
    assert [each["manifest_digest"] for each in meta["previous"]] == [first["manifest_digest"]]
    proof = verify(VerifyArgs(corpus=str(tmp_path / "corpus"))).summary
    assert (proof["sound"], proof["num_left_over"], len(proof["manifests"])) == (True, 1, 2)
    assert (
        stamps.items() <= {file: file.stat().st_mtime_ns for file in (tmp_path / "corpus" / "parts").iterdir()}.items()
    )
    cleared = main(dataclasses.replace(args, settings=dataclasses.replace(args.settings, stale="delete")))
    assert cleared.summary["embedded_now"] == 0
    assert verify(VerifyArgs(corpus=str(tmp_path / "corpus"))).summary["num_left_over"] == 0
    corpus = read_corpus(str(tmp_path / "corpus"))
    assert [int(key) for key in corpus.keys] == [number for number in range(19) if number != 10]
    frames = [decode_frames(video_bytes(number), suffix="mp4", preprocess=PREPROCESS) for number in (0, 9, 18)]
    model = load_bundle(tmp_path / "model").model
    with torch.inference_mode():
        exact = model.columns(model.encode_video(torch.from_numpy(np.stack(frames))))["vector"].numpy()
    assert ((corpus.vectors[[0, 9, 17]] * exact).sum(axis=1) > 0.9999).all()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fpig", "eercf", "t2v2t"])
def test_every_column_of_a_method_can_be_kept(ray_local, tmp_path, method):
    torch.manual_seed(0)
    save_bundle(tmp_path / "model", build_model(METHOD_CONFIGS[method]))
    write_shards(tmp_path / "shards", 3)
    offered = offered_columns(load_bundle(tmp_path / "model").model, PREPROCESS)
    extra = tuple(column.name for column in offered if column.name != "vector")
    assert extra
    main(args_for(tmp_path, settings=dataclasses.replace(SETTINGS, dtype="float32", extra_columns=extra)))
    frames = [decode_frames(video_bytes(number), suffix="mp4", preprocess=PREPROCESS) for number in range(3)]
    model = load_bundle(tmp_path / "model").model
    with torch.inference_mode():
        wanted = model.columns(model.encode_video(torch.from_numpy(np.stack(frames))))
    got = read_columns(str(tmp_path / "corpus"), [column.name for column in offered])
    for name, value in wanted.items():
        np.testing.assert_allclose(got[name], value.numpy(), atol=1e-4)


@pytest.mark.slow
def test_the_run_in_mlflow_links_what_went_in_and_came_out(ray_local, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "model")
    write_shards(tmp_path / "shards", 3)
    (tmp_path / "model" / "training.json").write_text(json.dumps({"select_on": "val", "mlflow_run_id": "abc"}))
    done = main(args_for(tmp_path, tracking=f"sqlite:///{tmp_path}/mlflow.db"))
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    run = client.get_run(done.summary["mlflow_run_id"])
    meta = read_committed(str(tmp_path / "corpus"))
    assert run.info.status == "FINISHED"
    wanted = {"model_run_id": "abc", "model_uri": str(tmp_path / "model"), "corpus": str(tmp_path / "corpus")}
    wanted |= {name: meta[name] for name in ("model_id", "manifest_digest", "parts_digest", "code_revision")}
    assert wanted.items() <= run.data.tags.items()
    assert run.inputs
    assert [each.dataset.digest for each in run.inputs.dataset_inputs] == [meta["manifest_digest"][:36]]
    assert {"num_done", "videos_per_s", "seconds_left", "num_embedded"} <= run.data.metrics.keys()
    (part,) = (tmp_path / "corpus" / "parts").iterdir()
    told = read_identity(str(part))
    assert told["mlflow_run_id"] == done.summary["mlflow_run_id"]
    assert (told["manifest_digest"], told["code_revision"]) == (meta["manifest_digest"], meta["code_revision"])


@pytest.mark.slow
def test_a_registered_model_embeds_by_its_alias(ray_local, tmp_path, monkeypatch):
    """The model travels to the workers beside the corpus, and the corpus knows the run that logged it."""
    monkeypatch.chdir(tmp_path)
    model_id, tracking = write_model(tmp_path / "model"), f"sqlite:///{tmp_path}/mlflow.db"
    write_shards(tmp_path / "shards", 3)
    with output_run(str(tmp_path / "run"), tracking=tracking, name="train") as tracker:
        tracker.log_model(tmp_path / "model", register_as="fpig@best")
    for number, model in enumerate(["models:/fpig@best", f"runs:/{tracker.run_id}/model"]):
        done = main(args_for(tmp_path, model=model, out=str(tmp_path / f"corpus-{number}"), tracking=tracking))
        meta = read_committed(str(tmp_path / f"corpus-{number}"))
        assert (done.summary["model_id"], meta["model_uri"], done.exit_code) == (model_id, model, DONE)
        assert load_bundle(tmp_path / f"corpus-{number}" / "model").model_id == model_id
        assert meta["model_run_id"] == tracker.run_id


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
