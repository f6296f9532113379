"""What becomes of the workers' reports: files of the run, points and tables in MLflow."""

import json
import logging
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cluster.reports import GroupReport
from cluster.task import TrainTask
from cluster.tracking import Tracker
from jobs.validation_pictures import log_pictures, log_table
from pipelines import storage
from pipelines.manifest import Manifest

REJECTED = "rejected.jsonl"
STEPS = "steps"

logger = logging.getLogger(__name__)


class RunReports:
    """Takes the reports of a run, also of one that was stopped before: nothing is on record twice."""

    def __init__(self, task: TrainTask, tracker: Tracker, val: Manifest):
        self._task, self._tracker, self._val = task, tracker, val
        self._rejected_url = storage.join(task.run_url, REJECTED)
        lines = storage.read_bytes(self._rejected_url).splitlines() if storage.exists(self._rejected_url) else []
        self._rejected = {sample["uid"]: sample for sample in map(json.loads, lines)}
        self._logged = {kind: tracker.last_step(kind) for kind in ("loss", "val_t2v_r1")}

    def take(self, report: GroupReport) -> None:
        if report.rejected:
            self._rejected.update((sample["uid"], sample) for sample in report.rejected)
            storage.write_bytes(self._rejected_url, _json_lines(self._rejected.values()))
        if report.steps:
            # Steps repeated after a restart are told again, in a file of another name or with the same content.
            name = f"{report.steps[0]['batch']:09d}-{report.steps[-1]['batch']:09d}.jsonl"
            storage.write_bytes(storage.join(self._task.run_url, STEPS, name), _json_lines(report.steps))
        kind = "loss" if "loss" in report.metrics else "val_t2v_r1"
        if report.step > self._logged[kind]:
            self._tracker.log_metrics(report.metrics | {"num_rejected": len(self._rejected)}, step=report.step)
            self._logged[kind] = report.step
            if report.queries:
                self._show_validation(report)

    def _show_validation(self, report: GroupReport) -> None:
        """Tables and pictures of each n-th epoch and the last, drawn with the best model so far."""
        every, epochs = self._task.monitor.draw_every, self._task.schedule.epochs
        epoch = report.step // self._task.schedule.train_batches - 1
        if not every or not self._tracker.keeps_records or ((epoch + 1) % every and epoch + 1 < epochs):
            return
        log_table(self._tracker, report.queries, epoch=epoch)
        with tempfile.TemporaryDirectory() as folder:
            self._task.best.fetch(Path(folder) / "model")
            log_pictures(self._tracker, Path(folder) / "model", self._val, report.queries, epoch=epoch)


def num_rejected(run_url: str) -> int:
    """How many samples a run could not use."""
    url = storage.join(run_url, REJECTED)
    return storage.read_bytes(url).count(b"\n") if storage.exists(url) else 0


def _json_lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows).encode()
