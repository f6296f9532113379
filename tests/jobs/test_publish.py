"""The end of a training: the model is on storage whatever MLflow says, and MLflow gets it later."""

import dataclasses
import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from cluster.best import BestBundle
from cluster.tracking import Tracker
from fpig_core.bundle import bundle_id, load_bundle
from jobs import publish
from jobs.tracking import SPOOL_VARIABLE, output_run
from tests.worlds import write_model


@dataclasses.dataclass(frozen=True)
class Task:
    """As much of a training task as its end needs."""

    run_url: str

    @property
    def best(self) -> BestBundle:
        return BestBundle(f"{self.run_url}/best")


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    monkeypatch.setenv(SPOOL_VARIABLE, str(tmp_path / "spool"))
    write_model(tmp_path / "bundle")
    task = Task(str(tmp_path / "run"))
    task.best.save(load_bundle(tmp_path / "bundle").model, batch=7, validation={"t2v_r1": 0.5})
    return task


class Broken(Tracker):
    """Fails whatever it is asked."""

    keeps_records = True

    def log_model(self, *_: object, **__: object) -> str:
        raise RuntimeError("MLflow was asked")


def origin_of(task: Task) -> dict:
    return json.loads((Path(task.run_url) / "model" / "training.json").read_text())


def test_the_run_has_ended_before_mlflow_is_asked(task, tmp_path) -> None:
    with pytest.raises(RuntimeError, match="MLflow was asked"):
        publish.publish(task, Broken(), selected={"select_on": "val"}, register_as="")
    assert publish.is_published(task)
    assert bundle_id(Path(task.run_url) / "model") == bundle_id(tmp_path / "bundle")
    origin = origin_of(task)
    assert (origin["batch"], origin["select_on"], origin["mlflow_model"]) == (7, "val", "")


def test_the_same_command_gives_mlflow_the_model_that_it_did_not_take(task, tmp_path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise ConnectionError("no artifacts today")

    tracking = f"sqlite:///{tmp_path}/mlflow.db"
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_model_artifacts", refuse)
        with output_run(task.run_url, tracking=tracking, name="run") as tracker:
            publish.publish(task, tracker, selected={}, register_as="fpig")
    assert origin_of(task)["mlflow_model"] == ""
    for other in ("none", f"sqlite:///{tmp_path}/other.db"):
        publish.publish_rest(task, tracking=other, name="run", register_as="fpig")
    assert origin_of(task)["mlflow_model"] == ""
    for _ in range(2):
        publish.publish_rest(task, tracking=tracking, name="run", register_as="fpig")
    client = MlflowClient(tracking)
    run = client.get_run(tracker.run_id)
    (model,) = client.search_logged_models([run.info.experiment_id])
    assert origin_of(task)["mlflow_model"] == f"models:/{model.model_id}"
    assert [version.source for version in client.search_model_versions("name = 'fpig'")] == [model.artifact_location]
    assert run.info.status == "FINISHED"
