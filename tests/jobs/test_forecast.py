"""``train … --plan DEVICE``: nothing starts, and the line it ends with is the training itself."""

import dataclasses
import shlex

import pytest

from jobs import train
from jobs.recipes import RECIPES
from tests.worlds import write_shards

OPTIONS = ["--model.backbone.pretrained", "", "--tracking", "sqlite:////a folder/mlflow.db", "--optim.lr", "3e-6"]


def plan(monkeypatch, *words: str):
    monkeypatch.setattr(train, "connect", lambda **_: pytest.fail("Ray was started"))
    args = train.read_args(list(words))
    return args, train.main(args)


def test_the_line_parses_back_to_the_same_run(monkeypatch, tmp_path):
    write_shards(tmp_path / "train", 12)
    write_shards(tmp_path / "val", 4)
    places = ["--data.train", str(tmp_path / "train"), "--data.val", str(tmp_path / "val"), "--global-batch", "5"]
    words = ["demo", "--method", "mean_pool", *OPTIONS, *places, "--plan", "L4", "--json", "plan.json"]
    args, report = plan(monkeypatch, *words, "--plan-share", "50%")
    command = shlex.split(report.next_command)
    assert " ".join(command[: command.index("--")]) == "ray job submit --address http://127.0.0.1:8265 --working-dir ."
    assert command[command.index("--") + 1 :][:3] == ["python", "-m", "jobs.train"]
    again = train.read_args(command[command.index("--") + 4 :])
    assert again == dataclasses.replace(args, plan="", json="", plan_share=again.plan_share)
    summary = report.summary
    assert (summary["num_steps"], summary["num_samples"]) == (3 * 12, 12 * 12)
    step_s = summary["tflop_a_step_and_device"] / 121 / 0.5
    assert summary["hours_at_50%_of_the_peak"] == pytest.approx(36 * step_s / 3600)
    assert "placement.storage" in summary["submitted"]
    assert "data.train" not in summary["submitted"]


def test_shard_sets_may_come_later_and_devices_must_be_known(monkeypatch):
    _, report = plan(monkeypatch, "demo", "--method", "mean_pool", *OPTIONS, "--data.train", "nowhere", "--plan", "cpu")
    assert "nowhere" in report.summary["num_steps"]
    with pytest.raises(ValueError, match="wanted one of H100"):
        plan(monkeypatch, "demo", "--method", "mean_pool", *OPTIONS, "--plan", "abacus")


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "method"), [(name, method) for name in RECIPES for method in RECIPES[name].methods])
def test_every_recipe_can_be_planned(monkeypatch, recipe, method):
    _, report = plan(monkeypatch, recipe, "--method", method, "--model.backbone.pretrained", "", "--plan", "H200")
    assert report.summary["gib_per_device"] > 0
    assert len(report.summary["memory_by_stage"]) == 4
