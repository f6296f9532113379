"""The MLflow run that belongs to an output: a job that was stopped and started again goes on with the same run."""

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from cluster.tracking import Tracker, TrackerSpec, open_tracker
from pipelines import storage

RECORD = "mlflow.json"
SPOOL_VARIABLE = "FPIG_SPOOL"
"""Environment variable: local folder where records wait for MLflow; default ``runs/.spool``."""


@contextlib.contextmanager
def output_run(output_url: str, *, tracking: str, name: str) -> Iterator[Tracker]:
    """The tracker of whatever is made at ``output_url``; a record there ties the two together.

    Another tracking URI, or an output that was removed and begun again, gets a run of its own.
    """
    # The URI may hold a password: only its digest is stored.
    digest = hashlib.sha256(tracking.encode()).hexdigest()[:16]
    url = storage.join(output_url, RECORD)
    record = json.loads(storage.read_bytes(url)) if storage.exists(url) else {}
    if record.get("tracking") != digest:
        record = {"tracking": digest, "key": uuid.uuid4().hex, "run_id": ""}
        storage.write_bytes(url, json.dumps(record).encode())
    spec = TrackerSpec(uri=tracking, run_name=name, run_id=record["run_id"], spool_dir=str(spool_folder(record["key"])))
    with open_tracker(spec) as tracker:
        try:
            yield tracker
        finally:
            if tracker.run_id != record["run_id"]:
                storage.write_bytes(url, json.dumps(record | {"run_id": tracker.run_id}).encode())


def deliver_waiting(output_url: str, *, tracking: str, name: str) -> None:
    """Deliver what an earlier job on this machine could not, because MLflow was away."""
    url = storage.join(output_url, RECORD)
    if storage.exists(url) and spool_folder(json.loads(storage.read_bytes(url))["key"]).exists():
        with output_run(output_url, tracking=tracking, name=name):
            pass


def spool_folder(key: str) -> Path:
    return Path(os.environ.get(SPOOL_VARIABLE, "runs/.spool")) / key
