"""The end of a training: its best model at ``RUN/model``, and in MLflow."""

import json
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.task import TrainTask
from cluster.tracking import Tracker
from jobs.run_reports import num_rejected
from jobs.tracking import deliver_waiting, is_tracked, output_run
from pipelines import storage
from pipelines.places import ORIGIN, local_bundle

MLFLOW_MODEL = "mlflow_model"
"""In the origin: URI of the model in MLflow; "" as long as MLflow has not taken it."""

logger = logging.getLogger(__name__)


def publish(task: TrainTask, tracker: Tracker, *, selected: Mapping[str, str], register_as: str) -> None:
    """Put the best bundle at ``RUN/model``, its origin last, which ends the run; then into MLflow, if that takes it."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "model"
        record = task.best.fetch(bundle)
        for path in sorted(bundle.iterdir()):
            storage.upload(path, storage.join(_model_url(task), path.name))
        origin = record | {
            **selected,
            "run": task.run_url,
            "mlflow_run_id": tracker.run_id,
            MLFLOW_MODEL: "",
            "num_rejected": num_rejected(task.run_url),
        }
        _write_origin(task, origin)
        tracker.set_tags({"model": _model_url(task)})
        _log_model(task, tracker, bundle, origin, register_as=register_as)


def publish_rest(task: TrainTask, *, tracking: str, name: str, register_as: str) -> None:
    """Give MLflow what it did not take when the run ended: records that wait on this machine, and the model."""
    origin = read_origin(task)
    if origin.get(MLFLOW_MODEL) != "" or not is_tracked(task.run_url, tracking=tracking):
        deliver_waiting(task.run_url, tracking=tracking, name=name)
        return
    with (
        output_run(task.run_url, tracking=tracking, name=name) as tracker,
        local_bundle(_model_url(task)) as bundle,
    ):
        _log_model(task, tracker, bundle, origin, register_as=register_as)


def is_published(task: TrainTask) -> bool:
    """Whether the run has ended with a model."""
    return storage.exists(storage.join(_model_url(task), ORIGIN))


def read_origin(task: TrainTask) -> dict[str, Any]:
    """What ``publish`` left of a run that has ended."""
    return json.loads(storage.read_bytes(storage.join(_model_url(task), ORIGIN)))


def _log_model(task: TrainTask, tracker: Tracker, bundle: Path, origin: dict[str, Any], *, register_as: str) -> None:
    if uri := tracker.log_model(bundle, register_as=register_as):
        _write_origin(task, origin | {"mlflow_run_id": tracker.run_id, MLFLOW_MODEL: uri})
    elif tracker.keeps_records:
        logger.warning("the model is at %s; the same command offers it to MLflow again", _model_url(task))


def _write_origin(task: TrainTask, origin: dict[str, Any]) -> None:
    text = json.dumps(origin, indent=2, sort_keys=True) + "\n"
    storage.write_bytes(storage.join(_model_url(task), ORIGIN), text.encode())


def _model_url(task: TrainTask) -> str:
    return f"{task.run_url}/model"
