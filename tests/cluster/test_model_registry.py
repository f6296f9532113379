import logging

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient

from cluster.logged_models import resolve_model_uri
from cluster.tracking import TrackerSpec, open_tracker
from fpig_core.backbone import tokenize
from fpig_core.bundle import bundle_id, load_bundle

QUERIES = ["a red ball rolls", "two cats sleep", "rain"]


@pytest.fixture(scope="module")
def logged(database, bundle_folder, tmp_path_factory):
    """Run id and URI of a model that was logged and registered."""
    spec = TrackerSpec(uri=database, run_name="train", spool_dir=str(tmp_path_factory.mktemp("run") / "spool"))
    with open_tracker(spec) as tracker:
        uri = tracker.log_model(bundle_folder, register_as="fpig-test@candidate")
        return tracker.run_id, uri


@pytest.fixture
def pyfunc(logged, database, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    return mlflow.pyfunc.load_model(logged[1])


def test_the_model_is_named(logged, database, bundle_folder):
    run_id, uri = logged
    assert uri.startswith("models:/")
    client = MlflowClient(database)
    assert client.get_run(run_id).data.tags["model_id"] == bundle_id(bundle_folder)
    assert client.get_model_version("fpig-test", "1").tags["model_id"] == bundle_id(bundle_folder)
    assert mlflow.active_run() is None


@pytest.mark.parametrize("kind", ["logged", "run", "version", "alias"])
def test_every_uri_of_a_model_leads_to_its_bundle(logged, database, bundle_folder, tmp_path, kind):
    run_id, uri = logged
    uris = {
        "logged": uri,
        "run": f"runs:/{run_id}/model",
        "version": "models:/fpig-test/1",
        "alias": "models:/fpig-test@candidate",
    }
    folder = resolve_model_uri(uris[kind], tracking_uri=database, folder=tmp_path)
    assert bundle_id(folder) == bundle_id(bundle_folder)


@pytest.mark.parametrize("uri", ["models:/unknown/1", "runs:/" + "0" * 32 + "/model", "s3://bucket/model"])
def test_a_uri_without_a_bundle_is_a_wrong_request(database, uri):
    with pytest.raises(ValueError, match="model"):
        resolve_model_uri(uri, tracking_uri=database)


@pytest.mark.parametrize(
    "queries", [QUERIES, pd.DataFrame({"query": QUERIES, "id": [1, 2, 3]}), pd.DataFrame({"text": QUERIES})]
)
def test_the_logged_model_encodes_queries_as_the_bundle_does(pyfunc, bundle_folder, queries):
    with torch.inference_mode():
        wanted_QD = load_bundle(bundle_folder).model.encode_text(tokenize(QUERIES, context_length=20)).numpy()
    np.testing.assert_allclose(pyfunc.predict(queries), wanted_QD, atol=1e-6)


def fused_vectors(bundle_folder, frame_BF3HW) -> np.ndarray:
    return load_bundle(bundle_folder).model.encode_video(torch.from_numpy(frame_BF3HW)).fused_BD.numpy()


def test_the_logged_model_encodes_videos_as_the_bundle_does(pyfunc, bundle_folder):
    frame_BF3HW = np.random.default_rng(0).integers(0, 256, (2, 2, 3, 32, 32), dtype=np.uint8)
    with torch.inference_mode():
        wanted_BD = fused_vectors(bundle_folder, frame_BF3HW)
    np.testing.assert_allclose(pyfunc.predict(frame_BF3HW, params={"encode": "video"}), wanted_BD, atol=1e-6)


def test_a_model_stays_where_it_is_while_the_server_is_away(bundle_folder, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("cluster.tracking.FLUSH_S", 0.1)
    with open_tracker(TrackerSpec(uri="http://127.0.0.1:9", run_name="run", spool_dir=str(tmp_path))) as tracker:
        assert tracker.log_model(bundle_folder) == ""
    assert str(bundle_folder) in caplog.text
    assert caplog.records[0].levelno == logging.WARNING


def test_a_folder_without_a_bundle_is_refused(database, tmp_path):
    spec = TrackerSpec(uri=database, run_name="run", spool_dir=str(tmp_path / "spool"))
    with open_tracker(spec) as tracker, pytest.raises(ValueError, match="bundle"):
        tracker.log_model(tmp_path)
