"""Training as a command: what it refuses, that a killed run goes on, and that the full-size recipe starts."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.checkpoints import CheckpointStore
from fpig_core.models import check_config
from fpig_core.schedule import Phase
from jobs import train
from jobs.recipes import RECIPES
from jobs.run_setup import claim_run
from pipelines.manifest import Manifest, load_manifest
from tests.runs import require_same_state
from tests.worlds import write_model, write_shards

SIZES = ["--model.preprocess.num-frames", "3", "--model.num-selected", "4", "--global-batch", "4"]
RANDOM_WEIGHTS = ["--model.backbone.pretrained", ""]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    root: Path = tmp_path_factory.mktemp("world")
    write_shards(root / "train", 12, flaws={3: "bad_container"})
    write_shards(root / "val", 4)
    return root


def options(world: Path, runs: Path) -> list[str]:
    data = ["--data.train", str(world / "train"), "--data.val", str(world / "val")]
    return [*data, "--placement.storage", str(runs), "--name", "run", "--tracking", "none"]


def args(world: Path, runs: Path, *more: str) -> train.Args:
    return train.read_args(["demo", *options(world, runs), *SIZES, *RANDOM_WEIGHTS, *more])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--data.train", "nowhere"], "nowhere/manifest.parquet; run: python -m jobs.index_shards"),
        (["--model.backbone.pretrained", "nofile.pt"], "neither a file nor a tag of tiny"),
        (["--model.backbone.name", "RN50"], "wanted open_clip's plain VisionTransformer"),
        (["--model.preprocess.size", "224"], "use preprocess.size=32"),
        (["--placement.storage", "ftp://host/runs"], "ftp"),
        (["--placement.storage", "/proc/nowhere"], "cannot write to /proc/nowhere"),
    ],
)
def test_a_wrong_request_ends_before_anything_starts(world, tmp_path, monkeypatch, wrong, message) -> None:
    monkeypatch.setattr(train, "connect", lambda **_: pytest.fail("Ray was started"))
    with pytest.raises(ValueError, match=r".") as refused:
        train.main(args(world, tmp_path, *wrong))
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--optim.lr", "banana"], "Error parsing --optim.lr: could not convert string to float: 'banana'"),
        (["--optim.lr", "-1"], "wanted lr > 0"),
        (["--placement.zero-stage", "4"], "--placement.zero-stage"),
        (["--placement.num-workers", "0"], "wanted at least 1"),
    ],
)
def test_a_wrong_setting_is_one_line(world, tmp_path, wrong, message) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        args(world, tmp_path, *wrong)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_unknown_recipe_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="got recipe 'nope', wanted one of demo, msrvtt-fpig-b32"):
        train.read_args(["nope"])


def test_a_folder_with_results_belongs_to_one_experiment(world, tmp_path) -> None:
    first = args(world, tmp_path)
    manifests: dict[Phase, Manifest] = {
        "train": load_manifest(str(world / "train")),
        "val": load_manifest(str(world / "val")),
    }
    claim_run(str(tmp_path / "run"), first.experiment, manifests, start_id="")
    claim_run(str(tmp_path / "run"), first.experiment, manifests, start_id="")
    other = dataclasses.replace(first.experiment, epochs=13)
    claim_run(str(tmp_path / "run"), other, manifests, start_id="")
    claim_run(str(tmp_path / "run"), first.experiment, manifests, start_id="")
    (tmp_path / "run" / "checkpoints").mkdir()
    (tmp_path / "run" / "checkpoints" / "a file").touch()
    claim_run(str(tmp_path / "run"), first.experiment, manifests, start_id="")
    with pytest.raises(ValueError, match=r'"epochs": 13.*use another --name'):
        claim_run(str(tmp_path / "run"), other, manifests, start_id="")
    grown: dict[Phase, Manifest] = {**manifests, "val": dataclasses.replace(manifests["val"], digest="another")}
    with pytest.raises(ValueError, match=r'"val_manifest": "another".*use another --name'):
        claim_run(str(tmp_path / "run"), first.experiment, grown, start_id="")


def start(recipe: str, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "jobs.train", recipe, *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ))


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output[-4000:]
    return output


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_run_goes_on_elsewhere_and_ends_like_an_undisturbed_one(world, tmp_path) -> None:
    pace = ["--epochs", "4", "--monitor.checkpoint-every", "2", "--monitor.log-every", "1", "--max-rejected", "10%"]
    pace += ["--optim.ema", "0.5"]
    for folder in ("whole", "killed"):
        process = start("demo", *options(world, tmp_path / folder), *SIZES, *RANDOM_WEIGHTS, *pace)
        if folder == "killed":
            checkpoints = CheckpointStore(str(tmp_path / folder / "run" / "checkpoints"))
            while not checkpoints.newest_complete():
                assert process.poll() is None
                time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            elsewhere = ["--placement.num-workers", "1", "--placement.zero-stage", "2"]
            process = start("demo", *options(world, tmp_path / folder), *SIZES, *RANDOM_WEIGHTS, *pace, *elsewhere)
            assert "Resuming" in finish(process)
        else:
            assert "Starting" in finish(process)
    models = [tmp_path / folder / "run" / "model" for folder in ("whole", "killed")]
    origins = [json.loads((model / "training.json").read_text()) for model in models]
    assert origins[0]["validation"] == pytest.approx(origins[1]["validation"])
    assert [origin["num_rejected"] for origin in origins] == [1, 1]
    require_same_state(tmp_path / "whole" / "run", tmp_path / "killed" / "run")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_full_size_recipe_starts_with_random_weights(world, tmp_path) -> None:
    places = ["--placement.num-workers", "1", "--placement.device", "cpu", "--placement.decode-cpus", "1"]
    size = ["--global-batch", "4", "--epochs", "1", "--monitor.log-every", "1", "--max-rejected", "10%"]
    output = finish(start("msrvtt-fpig-b32", *options(world, tmp_path), *RANDOM_WEIGHTS, *places, *size))
    assert "Starting" in output
    record = json.loads((tmp_path / "run" / "model" / "training.json").read_text())
    assert record["validation"].keys() >= {"t2v_r1", "v2t_r1"}
    assert record["select_on"] == "val"


@pytest.mark.parametrize(("name", "method"), [(name, method) for name in RECIPES for method in RECIPES[name].methods])
def test_every_recipe_holds_together(name, method) -> None:
    parsed = train.read_args([name, "--method", method, "--model.backbone.pretrained", ""])
    assert method in parsed.name or method == next(iter(RECIPES[name].methods))
    check_config(parsed.experiment.model)


def test_an_unknown_method_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"got --method 'nope', wanted one of fpig, fpig_cls"):
        train.read_args(["demo", "--method", "nope"])


@pytest.mark.parametrize("setting", [["--placement.micro-batch", "2"], ["--placement.compile"]])
def test_zero_3_rules_out_what_computes_with_its_weights_twice(world, tmp_path, setting) -> None:
    with pytest.raises(ValueError, match=r"zero_stage=3 with .*use zero_stage=2"):
        args(world, tmp_path, "--placement.zero-stage", "3", *setting)


def test_a_bundle_of_another_method_starts_nothing(world, tmp_path) -> None:
    write_model(tmp_path / "bundle")
    start = ["--start", str(tmp_path / "bundle"), "--model.backbone.pretrained", ""]
    with pytest.raises(ValueError, match=r"got a bundle of fpig .*wanted eercf"):
        train.main(train.read_args(["demo", "--method", "eercf", *options(world, tmp_path), *start]))
