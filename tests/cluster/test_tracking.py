import dataclasses
import math
import os
import pickle
import time

import pytest
from mlflow import MlflowClient

from cluster.logged_models import resolve_model_uri
from cluster.mlflow_sink import MlflowSink, patience
from cluster.redact import redact
from cluster.spool import Spool
from cluster.tracking import MlflowTracker, TrackerSpec, clean_key, flatten, open_tracker
from fpig_core.bundle import bundle_id
from tests.cluster.mlflow_server import Server
from tests.waiting import wait_until

NOWHERE = "http://user:secret@127.0.0.1:9"


@pytest.fixture
def spec(database, tmp_path) -> TrackerSpec:
    return TrackerSpec(uri=database, run_name="run", spool_dir=str(tmp_path / "spool"))


def points(uri: str, run_id: str, metric: str) -> list[tuple[int, float]]:
    history = MlflowClient(uri).get_metric_history(run_id, metric)
    return sorted((point.step, point.value) for point in history)


def open_real(spec: TrackerSpec) -> MlflowTracker:
    tracker = open_tracker(spec)
    assert isinstance(tracker, MlflowTracker)
    return tracker


def test_the_spec_travels_by_pickle(spec):
    assert pickle.loads(pickle.dumps(spec)) == spec  # noqa: S301 - our own bytes


def test_a_spec_without_a_folder_is_refused():
    with pytest.raises(ValueError, match="spool_dir"):
        TrackerSpec(uri="sqlite:///x.db", run_name="run")


def test_the_null_tracker_takes_everything(tmp_path):
    with open_tracker(TrackerSpec(uri="none")) as tracker:
        tracker.log_params({"a": 1})
        tracker.log_metrics({"loss": 1.0}, step=0)
        tracker.log_artifact(tmp_path)
        assert (tracker.run_id, tracker.last_step("loss"), tracker.log_model(tmp_path)) == ("", -1, "")


def test_a_run_holds_what_was_logged(spec, tmp_path):
    (tmp_path / "report.txt").write_text("fine")
    with open_tracker(spec) as tracker:
        tracker.log_params({"model": {"width": 8, "names": ["a", "b"]}, "long": "x" * 9000})
        tracker.set_tags({"revision": "abc"})
        tracker.log_metrics({"loss": 0.1, "recall@1": 2, "nan": math.nan}, step=3)
        tracker.log_input("clips", source="s3://bucket/manifest.parquet", digest="0123456789abcdef")
        tracker.log_artifact(tmp_path / "report.txt", folder="reports")
        (tmp_path / "report.txt").unlink()
    client = MlflowClient(spec.uri)
    run = client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "run"
    assert run.data.params["model.width"] == "8"
    assert run.data.params["model.names"] == '["a", "b"]'
    assert len(run.data.params["long"]) == 6000
    assert run.data.tags["revision"] == "abc"
    assert points(spec.uri, tracker.run_id, "loss") == [(3, 0.1)]
    assert points(spec.uri, tracker.run_id, "recall_1") == [(3, 2.0)]
    assert math.isnan(run.data.metrics["nan"])
    assert run.inputs is not None
    (dataset,) = [entry.dataset for entry in run.inputs.dataset_inputs]
    assert (dataset.name, dataset.digest) == ("clips", "0123456789abcdef")
    assert [file.path for file in client.list_artifacts(tracker.run_id, "reports")] == ["reports/report.txt"]
    assert not list((tmp_path / "spool" / "outbox").iterdir())


def test_the_same_folder_and_the_same_run_id_resume_a_run(spec, tmp_path):
    with open_tracker(spec) as first:
        first.log_metrics({"loss": 1.0}, step=5)
        first.finish("FAILED")
    with open_tracker(spec) as second:
        assert second.run_id == first.run_id
        assert second.last_step("loss") == 5
        second.log_metrics({"loss": 2.0}, step=6)
    elsewhere = dataclasses.replace(spec, run_id=first.run_id, spool_dir=str(tmp_path / "other"))
    with open_tracker(elsewhere) as third:
        assert third.run_id == first.run_id
        assert (third.last_step("loss"), third.last_step("never")) == (6, -1)
        third.finish("KILLED")
    assert points(spec.uri, first.run_id, "loss") == [(5, 1.0), (6, 2.0)]
    assert MlflowClient(spec.uri).get_run(first.run_id).info.status == "KILLED"


def test_an_exception_ends_the_run_as_failed(spec):
    with pytest.raises(RuntimeError), open_tracker(spec) as tracker:
        raise RuntimeError
    assert MlflowClient(spec.uri).get_run(tracker.run_id).info.status == "FAILED"


def test_a_wrong_run_id_stops_at_once_and_frees_the_folder(spec):
    with pytest.raises(ValueError, match="run_id"):
        open_tracker(dataclasses.replace(spec, run_id="0" * 32))
    Spool(spec.spool_dir).close()


def test_a_folder_serves_one_run(spec):
    open_tracker(spec).finish()
    with pytest.raises(ValueError, match="belongs to run"):
        open_tracker(dataclasses.replace(spec, run_id="0" * 32))


def test_a_changed_param_is_set_aside_and_the_first_value_stays(spec):
    with open_tracker(spec) as first:
        first.log_params({"workers": 2, "seed": 0})
    with open_tracker(spec) as second:
        second.log_params({"workers": 4, "seed": 0, "late": 1})
    assert MlflowClient(spec.uri).get_run(first.run_id).data.params == {"workers": "2", "seed": "0", "late": "1"}


def test_a_crash_between_delivery_and_commit_repeats_no_point(spec, monkeypatch):
    """The process dies after the server took the points and before the spool knows."""
    tracker = open_real(spec)
    monkeypatch.setattr(Spool, "commit", lambda *_, **__: (_ for _ in ()).throw(OSError("process died")))
    tracker.log_metrics({"loss": 0.5, "score": 1.5}, step=1)
    tracker._shipper.flush(0.5)
    wait_until(lambda: points(spec.uri, tracker.run_id, "loss") == [(1, 0.5)], limit_s=150)
    tracker._shipper.stop(10)
    tracker._spool.close()
    monkeypatch.undo()
    delivered = []
    log_batch = MlflowClient.log_batch
    monkeypatch.setattr(
        MlflowClient,
        "log_batch",
        lambda self, run_id, metrics, *rest: delivered.extend(metrics) or log_batch(self, run_id, metrics, *rest),
    )
    with open_tracker(spec) as again:
        again.log_metrics({"loss": 0.25}, step=2)
    assert points(spec.uri, again.run_id, "loss") == [(1, 0.5), (2, 0.25)]
    assert points(spec.uri, again.run_id, "score") == [(1, 1.5)]
    assert [(metric.key, metric.step) for metric in delivered] == [("loss", 2)]


def test_a_crash_during_creation_leaves_one_run(spec, tmp_path):
    sink = MlflowSink(spec.uri, experiment="creation", run_name="run", outbox=tmp_path)
    assert sink.connect("token", "") == sink.connect("token", "")


def test_a_dead_server_delays_nothing_and_its_secret_is_not_told(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("cluster.tracking.FLUSH_S", 0.2)
    spec = TrackerSpec(uri=NOWHERE, run_name="run", spool_dir=str(tmp_path))
    start = time.monotonic()
    tracker = open_tracker(spec)
    tracker.log_metrics({"loss": 1.0}, step=0)
    assert tracker.run_id == ""
    assert tracker.last_step("loss") == 0
    assert tracker.finish() == 2
    assert time.monotonic() - start < 6
    assert str(tmp_path) in caplog.text
    assert "secret" not in caplog.text


def test_request_limits_hold_only_inside(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    with patience(3):
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "3"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


@pytest.mark.parametrize("uri", ["http://user:pass@host/x", "postgresql://user:p@ss/w@host/x"])
def test_redact_hides_user_and_password(uri):
    assert redact(f"cannot open {uri} now") == f"cannot open {uri.split(':')[0]}://***@host/x now"


def test_redact_hides_the_query_of_a_url():
    assert (
        redact("PUT https://bucket/model?X-Amz-Signature=abc failed; why?") == "PUT https://bucket/model failed; why?"
    )


@pytest.mark.parametrize(("key", "clean"), [("recall@1", "recall_1"), ("/a//b/", "a/b"), ("../x", "x"), ("", "_")])
def test_keys_take_the_form_mlflow_takes(key, clean):
    assert clean_key(key) == clean


def test_flatten_gives_dotted_text(spec):
    flat = flatten({"spec": spec, "empty": {}, "none": None})
    assert flat["spec.run_name"] == "run"
    assert (flat["empty"], flat["none"]) == ("{}", "None")


@pytest.mark.slow
def test_points_logged_during_an_outage_arrive_once(database, bundle_folder, tmp_path):
    server = Server(database, tmp_path)
    spec = TrackerSpec(uri=server.uri, experiment="outage", run_name="run", spool_dir=str(tmp_path / "spool"))
    tracker = open_real(spec)
    tracker.log_params({"seed": 0})
    tracker.log_metrics({"loss": 0.0}, step=0)
    assert tracker.run_id == ""
    server.start()
    try:
        assert tracker._shipper.flush(60) == 0
        assert tracker.run_id
        server.kill()
        for step in range(1, 50):
            start = time.monotonic()
            tracker.log_metrics({"loss": step / 3, "nan": math.nan}, step=step)
            assert time.monotonic() - start < 0.5
        server.start()
        (tmp_path / "report.txt").write_text("fine")
        tracker.log_artifact(tmp_path / "report.txt")
        assert tracker._shipper.flush(60) == 0
        model_uri = tracker.log_model(bundle_folder)
        fetched = resolve_model_uri(model_uri, tracking_uri=server.uri, folder=tmp_path / "fetched")
        assert bundle_id(fetched) == bundle_id(bundle_folder)
        assert tracker.finish() == 0
        assert points(server.uri, tracker.run_id, "loss") == [(step, step / 3) for step in range(50)]
        assert len(points(server.uri, tracker.run_id, "nan")) == 49
        client = MlflowClient(server.uri)
        assert client.get_run(tracker.run_id).data.params == {"seed": "0"}
        assert [file.path for file in client.list_artifacts(tracker.run_id)] == ["report.txt"]
    finally:
        server.kill()
