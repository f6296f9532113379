"""The MLflow run that belongs to an output: a job that was stopped and started again goes on with the same run."""

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.tracking import NO_TRACKING, Tracker, TrackerSpec, open_tracker
from pipelines import storage

RECORD = "mlflow.json"
SPOOL_VARIABLE = "FPIG_SPOOL"
"""Environment variable: local folder where records wait for MLflow; default ``runs/.spool``."""


@contextlib.contextmanager
def output_run(output_url: str, *, tracking: str, name: str) -> Iterator[Tracker]:
    """The tracker of whatever is made at ``output_url``; a record there ties the two together.

    Another tracking URI, or an output that was removed and begun again, gets a run of its own.

    A job that is killed, and given again on a machine that knows nothing of it, finds the run by the id in the record,
    or in MLflow by the record's key: MLflow may have been away when the record was written.
    """
    url, digest = storage.join(output_url, RECORD), _digest(tracking)
    record = _read_record(url)
    if record.get("tracking") != digest:
        record = {"tracking": digest, "key": uuid.uuid4().hex, "run_id": ""}
        storage.write_bytes(url, json.dumps(record).encode())
    key = record["key"]
    spec = TrackerSpec(
        uri=tracking, run_name=name, run_id=record["run_id"], spool_id=key, spool_dir=str(spool_folder(key))
    )
    with open_tracker(spec) as tracker:
        record = _note_run(url, record, tracker.run_id)
        try:
            yield tracker
        finally:
            _note_run(url, record, tracker.run_id)


def _read_record(url: str) -> dict[str, Any]:
    return json.loads(storage.read_bytes(url)) if storage.exists(url) else {}


def _note_run(url: str, record: dict[str, Any], run_id: str) -> dict[str, Any]:
    """The record with this run id, also on storage."""
    if run_id != record["run_id"]:
        record = record | {"run_id": run_id}
        storage.write_bytes(url, json.dumps(record).encode())
    return record


def _digest(tracking: str) -> str:
    """What stands for a tracking URI in a record: the URI itself may hold a password."""
    return hashlib.sha256(tracking.encode()).hexdigest()[:16]


def is_tracked(output_url: str, *, tracking: str) -> bool:
    """Whether an output has a run in this MLflow."""
    known = _read_record(storage.join(output_url, RECORD)).get("tracking")
    return tracking != NO_TRACKING and known == _digest(tracking)


def deliver_waiting(output_url: str, *, tracking: str, name: str) -> None:
    """Deliver what an earlier job on this machine could not, because MLflow was away."""
    record = _read_record(storage.join(output_url, RECORD))
    if is_tracked(output_url, tracking=tracking) and spool_folder(record["key"]).exists():
        with output_run(output_url, tracking=tracking, name=name):
            pass


def spool_folder(key: str) -> Path:
    return Path(os.environ.get(SPOOL_VARIABLE, "runs/.spool")) / key
