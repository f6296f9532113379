"""A driver that is killed, and given again where nothing of it is left but the output, goes on in the same run."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from jobs.tracking import RECORD, SPOOL_VARIABLE, output_run

VICTIM = """
import os, sys
from jobs.tracking import output_run
with output_run(sys.argv[1], tracking=sys.argv[2], name="run") as tracker:
    tracker.log_metrics({"loss": 0.5}, step=1)
    assert tracker._shipper.flush(60) == 0
    os.kill(os.getpid(), 9)
"""


def test_a_killed_driver_goes_on_elsewhere_in_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, tracking = tmp_path / "output", f"sqlite:///{tmp_path}/mlflow.db"
    env = os.environ | {SPOOL_VARIABLE: str(tmp_path / "here")}
    killed = subprocess.run([sys.executable, "-c", VICTIM, str(output), tracking], env=env, timeout=200)
    assert killed.returncode == -signal.SIGKILL
    record = json.loads((output / RECORD).read_text())
    assert record["run_id"]
    # As it is where MLflow was away at the start: then only MLflow itself knows the run.
    (output / RECORD).write_text(json.dumps(record | {"run_id": ""}))
    monkeypatch.setenv(SPOOL_VARIABLE, str(tmp_path / "elsewhere"))
    with output_run(str(output), tracking=tracking, name="run") as tracker:
        assert tracker.last_step("loss") == 1
    client = MlflowClient(tracking)
    (run,) = client.search_runs([client.get_run(tracker.run_id).info.experiment_id])
    assert (run.info.run_id, run.info.status) == (record["run_id"], "FINISHED")
