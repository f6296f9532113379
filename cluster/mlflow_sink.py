"""Delivery of spooled records to MLflow through ``MlflowClient``, never through the fluent global run."""

import contextlib
import logging
import os
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mlflow import MlflowClient
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.entities import Dataset, DatasetInput, Experiment, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.telemetry import set_telemetry_client

from cluster.redact import cause, redact
from cluster.shipper import Refusal, RejectedError, UnavailableError
from cluster.spool import Record

SPOOL_TAG = "fpig.spool_id"
REQUEST_S = 5
HISTORY_S = 30
TRANSFER_S = 120
ARTIFACT_TRIES = 3
"""Deliveries that an artifact may fail in while MLflow itself answers."""

_REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST"}
_WRONG_USE = _REFUSALS | {"RESOURCE_DOES_NOT_EXIST", "UNAUTHENTICATED", "PERMISSION_DENIED", "INVALID_STATE"}
_PASSING_STATUS = {408, 425, 429}
_patience_lock = threading.RLock()


@contextlib.contextmanager
def patience(timeout_s: int, *, retries: int = 0) -> Iterator[None]:
    """Bound every MLflow request made inside: MLflow reads these limits from the environment at each request."""
    wanted = {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(timeout_s),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(retries),
    }
    with _patience_lock:
        before = {name: os.environ.get(name) for name in wanted}
        os.environ.update(wanted)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


@contextlib.contextmanager
def translated_errors() -> Iterator[None]:
    """MLflow's exceptions as ``RejectedError`` or ``UnavailableError``, without credentials in their text."""
    try:
        yield
    except MlflowException as error:
        kind = RejectedError if error.error_code in _REFUSALS else UnavailableError
        raise kind(redact(error)) from None


def quiet_mlflow() -> None:
    """Turn off MLflow's telemetry and its talk about migrations and signatures, for this process."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_UV_AUTO_DETECT", "false")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    set_telemetry_client()
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)


class MlflowSink:
    """One MLflow run as the destination of a spool. Copies of artifacts wait in ``outbox``.

    ``connect`` raises ``ValueError`` for a request that can never work (no such run, wrong credentials).
    """

    def __init__(self, uri: str, *, experiment: str, run_name: str, outbox: Path) -> None:
        self.uri, self._experiment, self._run_name, self._outbox = uri, experiment, run_name, outbox
        self._client: MlflowClient | None = None
        self.run_id = ""
        self.experiment_id = ""
        self._failures: Counter[str] = Counter()

    @property
    def client(self) -> MlflowClient:
        """The client. Its construction opens the store, which for a fresh SQLite file runs all migrations."""
        if self._client is None:
            if self.uri.startswith("sqlite:///"):
                Path(self.uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
            self._client = MlflowClient(tracking_uri=self.uri)
        return self._client

    def connect(self, spool_id: str, run_id: str) -> str:
        try:
            with patience(REQUEST_S):
                run = self.client.get_run(run_id) if run_id else self._find_or_create(spool_id)
        except MlflowException as error:
            if error.error_code in _WRONG_USE:
                raise ValueError(
                    f"MLflow at {redact(self.uri)} refused run_id={run_id!r}, experiment={self._experiment!r}: "
                    f"{redact(error)}; check the run id, the address and the credentials"
                ) from None
            raise UnavailableError(redact(error)) from None
        if run.info.lifecycle_stage != "active":
            raise ValueError(f"the MLflow run {run.info.run_id} is deleted; restore it or start a new run")
        self.run_id, self.experiment_id = run.info.run_id, run.info.experiment_id
        return self.run_id

    def _find_or_create(self, spool_id: str) -> Run:
        experiment_id = self._open_experiment().experiment_id
        query = f"tags.`{SPOOL_TAG}` = '{spool_id}'"
        if found := self.client.search_runs([experiment_id], query, max_results=1):
            return found[0]
        return self.client.create_run(experiment_id, run_name=self._run_name, tags={SPOOL_TAG: spool_id})

    def _open_experiment(self) -> Experiment:
        if found := self.client.get_experiment_by_name(self._experiment):
            return found
        location = None
        if self.uri.startswith("sqlite:///"):
            database = Path(self.uri.removeprefix("sqlite:///")).resolve()
            location = (database.parent / "artifacts" / self._experiment).as_uri()
        try:
            return self.client.get_experiment(self.client.create_experiment(self._experiment, location))
        except MlflowException as error:
            if error.error_code == "RESOURCE_ALREADY_EXISTS" and (
                found := self.client.get_experiment_by_name(self._experiment)
            ):
                return found
            raise

    def deliver(self, records: list[Record], *, uncertain: bool) -> list[Refusal]:
        points = [
            (name, record["step"], record["time_ms"], value)
            for record in records
            for name, value in record.get("metrics", {}).items()
        ]
        with translated_errors():
            if uncertain and points:
                points = self._without_arrived(points)
            metrics = [Metric(name, value, time_ms, step) for name, step, time_ms, value in points]
            params = [Param(*pair) for record in records for pair in record.get("params", {}).items()]
            tags = {key: value for record in records for key, value in record.get("tags", {}).items()}
            with patience(REQUEST_S):
                self.client.log_batch(self.run_id, metrics, params, [RunTag(*pair) for pair in tags.items()])
            for record in records:
                self._deliver_other(record)
        return self._deliver_artifacts(records)

    def _without_arrived(self, points: list[tuple[str, int, int, float]]) -> list[tuple[str, int, int, float]]:
        """Leave out points the run already holds: a tracker gives no two points the same time."""
        arrived = set()
        with patience(HISTORY_S):
            for name in {point[0] for point in points}:
                history = self.client.get_metric_history(self.run_id, name)
                arrived |= {(name, metric.step, metric.timestamp) for metric in history}
        return [point for point in points if point[:3] not in arrived]

    def _deliver_other(self, record: Record) -> None:
        if "input" in record:
            self._log_input(**record["input"])
        elif "status" in record:
            with patience(REQUEST_S):
                if record["status"] == "RUNNING":
                    self.client.update_run(self.run_id, status="RUNNING")
                else:
                    self.client.set_terminated(self.run_id, record["status"], record["time_ms"])

    def _log_input(self, *, name: str, source: str, digest: str) -> None:
        dataset = Dataset(
            name=name,
            digest=digest[:36],
            source_type="code",
            source=CodeDatasetSource(tags={"source": source, "digest": digest}).to_json(),
        )
        with patience(REQUEST_S):
            self.client.log_inputs(self.run_id, [DatasetInput(dataset)])

    def _deliver_artifacts(self, records: list[Record]) -> list[Refusal]:
        """Upload what the records name -> what the artifact store will not take.

        Raises:
            UnavailableError: MLflow does not answer, or another try may help. All other records have arrived.
        """
        refusals, waiting = [], ""
        for record in records:
            if "artifact" not in record:
                continue
            name = record["artifact"]
            try:
                self._log_artifact(self._outbox / name, record["folder"])
            # Between MLflow and the bytes lies any store: requests, boto and the OS have errors of their own.
            except Exception as error:
                self._require_answer()
                self._failures[name] += 1
                if _is_final(error) or self._failures[name] >= ARTIFACT_TRIES:
                    refusals.append(Refusal(record, cause(error)))
                else:
                    waiting = f"{name}: {cause(error)}"
        if waiting:
            raise UnavailableError(waiting)
        return refusals

    def _require_answer(self) -> None:
        """Raise ``UnavailableError`` unless MLflow itself answers."""
        with translated_errors(), patience(REQUEST_S):
            self.client.get_run(self.run_id)

    def _log_artifact(self, path: Path, folder: str) -> None:
        if not path.exists():
            return  # an earlier process delivered it and died before it could say so
        with patience(TRANSFER_S, retries=1):
            if path.is_dir():
                self.client.log_artifacts(self.run_id, str(path), f"{folder}/{path.name}".lstrip("/"))
            else:
                self.client.log_artifact(self.run_id, str(path), folder or None)
        shutil.rmtree(path.parent)

    def last_step(self, metric: str) -> int:
        """Largest step of ``metric`` on the server, -1 without one."""
        with translated_errors(), patience(HISTORY_S):
            return max((point.step for point in self.client.get_metric_history(self.run_id, metric)), default=-1)


def _is_final(error: Exception) -> bool:
    """Whether the answer to an upload would be the same another time."""
    if isinstance(error, MlflowException):
        return error.error_code in _REFUSALS
    answer = getattr(error, "response", None)  # of requests, or a dictionary of boto
    if isinstance(answer, dict):
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    else:
        status = getattr(answer, "status_code", 0)
    return 400 <= status < 500 and status not in _PASSING_STATUS
