"""MLflow goes away for a minute while a training is on: the training does not notice, and MLflow misses nothing."""

import statistics
import time
from pathlib import Path

import mlflow
import pytest

from tests.chaos import ALONE, Training, write_world
from tests.cluster.mlflow_server import Server

OUTAGE_S = 60
SIZES = ["--model.preprocess.num-frames", "12", "--global-batch", "8", "--epochs", "200", "--monitor.draw-every", "0"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_outage_of_a_minute_costs_no_point_and_no_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FPIG_SPOOL", str(tmp_path / "spool"))
    server = Server(f"sqlite:///{tmp_path}/mlflow.db", tmp_path)
    server.start()
    try:
        training = Training(write_world(tmp_path / "world"), "run", *SIZES, *ALONE, "--tracking", server.uri)
        training.start(address="local")
        training.reaches(20)
        away = training.last_batch()
        server.kill()
        time.sleep(OUTAGE_S)
        back = training.last_batch()
        assert back > away
        server.start()
        training.finish()
        client = mlflow.MlflowClient(server.uri)
        (experiment,) = client.search_experiments(filter_string="name != 'Default'")
        (run,) = client.search_runs([experiment.experiment_id])
        history = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    finally:
        server.kill()
    losses = [attempt["loss"] for _, (attempt,) in sorted(training.records().items())]
    assert [point.step for point in history["loss"]] == list(range(1, len(losses) + 1))
    assert [point.value for point in history["loss"]] == losses
    assert [point.step for point in history["val_t2v_r1"]] == list(range(3, len(losses) + 1, 3))
    assert run.info.status == "FINISHED"
    speed = [point.value for point in history["samples_per_s"]]
    # Batches count validations too: three steps, then one of them.
    parts = {"before": speed[5 : away * 3 // 4], "during": speed[away * 3 // 4 : back * 3 // 4], "all": speed}
    print({name: f"{statistics.median(part):.3g} samples/s in {len(part)} steps" for name, part in parts.items()})
