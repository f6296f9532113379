"""An artifact store that refuses costs the artifact, or the model, and nothing else."""

import json
import logging
from collections.abc import Callable

import pytest
import requests
from botocore.exceptions import ClientError, NoCredentialsError
from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus
from mlflow.exceptions import MlflowException

from cluster.logged_models import resolve_model_uri
from cluster.mlflow_sink import ARTIFACT_TRIES
from cluster.tracking import TrackerSpec, open_tracker
from fpig_core.bundle import bundle_id


def http_error(status: int) -> requests.HTTPError:
    answer = requests.Response()
    answer.status_code = status
    return requests.HTTPError(f"{status} for url: http://user:secret@proxy/artifacts?token=secret", response=answer)


def boto_error(status: int) -> ClientError:
    answer = {"Error": {"Code": "Refused"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "PutObject")  # pyright: ignore[reportArgumentType]


class Store:
    """Raises ``error`` for every upload whose path holds ``bad``."""

    def __init__(self, error: Exception, *, bad: str = "bad") -> None:
        self.error, self.bad, self.tries = error, bad, 0

    def before(self, upload: Callable) -> Callable:
        def log(client: MlflowClient, owner: str, path: str, *rest: str) -> None:
            if self.bad in path:
                self.tries += 1
                raise self.error
            upload(client, owner, path, *rest)

        return log


@pytest.fixture
def spec(database, tmp_path) -> TrackerSpec:
    return TrackerSpec(uri=database, run_name="run", spool_dir=str(tmp_path / "spool"))


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (http_error(413), 1),
        (http_error(403), 1),
        (boto_error(403), 1),
        (http_error(500), ARTIFACT_TRIES),
        (boto_error(503), ARTIFACT_TRIES),
        (NoCredentialsError(), ARTIFACT_TRIES),
        (OSError(28, "no space left"), ARTIFACT_TRIES),
        (MlflowException("API request failed with exception 500"), ARTIFACT_TRIES),
    ],
    ids=repr,
)
def test_an_artifact_that_is_not_taken_holds_nothing_up(spec, tmp_path, monkeypatch, caplog, error, tries):
    store = Store(error)
    monkeypatch.setattr(MlflowClient, "log_artifact", store.before(MlflowClient.log_artifact))
    with open_tracker(spec) as tracker:
        for name in ("bad.txt", "good.txt"):
            (tmp_path / name).write_text(name)
            tracker.log_artifact(tmp_path / name)
        tracker.log_metrics({"loss": 0.5}, step=1)
    client = MlflowClient(spec.uri)
    run = client.get_run(tracker.run_id)
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"loss": 0.5})
    assert len(client.get_metric_history(tracker.run_id, "loss")) == 1
    assert [file.path for file in client.list_artifacts(tracker.run_id)] == ["good.txt"]
    assert store.tries == tries
    (refused,) = map(json.loads, (tmp_path / "spool" / "rejected.jsonl").read_text().splitlines())
    assert (tmp_path / "spool" / "outbox" / refused["artifact"]).read_text() == "bad.txt"
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any("bad.txt" in text and type(error).__name__ in text for text in warned)
    assert "secret" not in caplog.text + json.dumps(refused)


def test_an_artifact_waits_for_a_server_that_is_away(spec, tmp_path, monkeypatch):
    def away(*_: object) -> None:
        raise MlflowException("API request failed with exception Connection refused")

    monkeypatch.setattr("cluster.tracking.FLUSH_S", 2.0)
    (tmp_path / "report.txt").write_text("fine")
    with open_tracker(spec) as tracker, monkeypatch.context() as patch:
        for call in ("log_artifact", "get_run"):
            patch.setattr(MlflowClient, call, away)
        tracker.log_artifact(tmp_path / "report.txt")
        assert tracker.finish() > 0
    with open_tracker(spec):
        pass
    assert [file.path for file in MlflowClient(spec.uri).list_artifacts(tracker.run_id)] == ["report.txt"]
    assert not (tmp_path / "spool" / "rejected.jsonl").exists()


@pytest.mark.parametrize(
    "error",
    [http_error(413), boto_error(403), NoCredentialsError(), MlflowException("500"), OSError(28, "full")],
    ids=repr,
)
def test_a_model_that_is_not_taken_is_gone_on_with(spec, bundle_folder, tmp_path, monkeypatch, caplog, error):
    upload = MlflowClient.log_model_artifacts
    with open_tracker(spec) as tracker:
        monkeypatch.setattr(MlflowClient, "log_model_artifacts", Store(error, bad="").before(upload))
        assert [tracker.log_model(bundle_folder), tracker.log_model(bundle_folder)] == ["", ""]
        assert f"the model {bundle_folder} was not logged" in caplog.text
        assert "secret" not in caplog.text
        monkeypatch.setattr(MlflowClient, "log_model_artifacts", upload)
        uri = tracker.log_model(bundle_folder)
        assert tracker.log_model(bundle_folder) == uri
    client = MlflowClient(spec.uri)
    run = client.get_run(tracker.run_id)
    models = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{tracker.run_id}'")
    assert [(f"models:/{model.model_id}", model.status) for model in models] == [(uri, LoggedModelStatus.READY)]
    assert run.outputs is not None
    assert [output.model_id for output in run.outputs.model_outputs] == [models[0].model_id]
    for name in (uri, f"runs:/{tracker.run_id}/model"):
        folder = resolve_model_uri(name, tracking_uri=spec.uri, folder=tmp_path / "copy")
        assert bundle_id(folder) == bundle_id(bundle_folder)
