"""Models are found by every kind of name, leave nothing behind, and asking for one makes no MLflow store."""

import json
import tempfile
from pathlib import Path

import pytest

from cluster.tracking import TrackerSpec, open_tracker
from fpig_core.bundle import bundle_id
from jobs.models import load_model_of, model_folder
from tests.worlds import write_model


@pytest.mark.parametrize("tracking", ["", "none", "sqlite:///nothing/mlflow.db", "sqlite:///nothing.db"])
@pytest.mark.parametrize("model", ["runs:/0123/model", "models:/fpig/1"])
def test_without_mlflow_an_mlflow_model_is_refused(tmp_path, monkeypatch, model, tracking):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="give --tracking"), model_folder(model, tracking=tracking):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_copy_of_an_mlflow_model_is_removed(tmp_path, monkeypatch):
    model_id = write_model(tmp_path / "model")
    (tmp_path / "here").mkdir()
    (tmp_path / "copies").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "copies"))
    database = f"sqlite:///{tmp_path}/mlflow.db"
    with open_tracker(TrackerSpec(uri=database, run_name="train", spool_dir=str(tmp_path / "spool"))) as tracker:
        uri = tracker.log_model(tmp_path / "model")
    with model_folder(uri, tracking=database) as folder:
        assert bundle_id(folder) == model_id
        assert folder.is_relative_to(tmp_path / "copies")
    assert list((tmp_path / "copies").iterdir()) == []
    assert list(Path.cwd().iterdir()) == []
    assert bundle_id(tmp_path / "model") == model_id


def test_a_model_comes_with_its_origin(tmp_path):
    meta = {"model": str(tmp_path / "model"), "model_id": write_model(tmp_path / "model")}
    assert load_model_of(meta)[1] == {}
    (tmp_path / "model" / "training.json").write_text(json.dumps({"select_on": "val"}))
    bundle, origin = load_model_of(meta)
    assert (bundle.model_id, origin) == (meta["model_id"], {"select_on": "val"})
