"""The one object through which a job tells the outside what it does: an MLflow run, or nothing.

Nothing here waits for a network, except opening (bounded), ``last_step``, ``log_model`` and ``finish`` (bounded):
everything else is written to the spool and delivered in the background, once, also after an outage or a restart.
"""

import dataclasses
import functools
import json
import logging
import os
import posixpath
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from cluster.redact import cause
from cluster.shipper import RejectedError, Shipper, UnavailableError
from cluster.spool import Spool

if TYPE_CHECKING:
    from cluster.mlflow_sink import MlflowSink

log = logging.getLogger(__name__)

Status = Literal["FINISHED", "FAILED", "KILLED"]

NO_TRACKING = "none"
OPEN_SERVER_S = 5.0
OPEN_DATABASE_S = 120.0
FLUSH_S = 20.0
MAX_KEY_LENGTH = 250
MAX_PARAM_LENGTH = 6000
MAX_TAG_LENGTH = 8000


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackerSpec:
    """Where a run is tracked.

    ``uri`` is an MLflow tracking URI (``sqlite:///runs/mlflow.db``, ``http://…``) or ``none``. ``spool_dir`` belongs to
    one run: opening the same folder again goes on with the same run. ``run_id`` resumes a run known otherwise, and
    ``spool_id`` the one that was made under this name, if there is one.
    """

    uri: str = NO_TRACKING
    experiment: str = "fpig"
    run_name: str = ""
    run_id: str = ""
    spool_id: str = ""
    spool_dir: str = ""

    def __post_init__(self) -> None:
        if not self.uri:
            raise ValueError(f"got an empty tracking uri; give an MLflow URI or {NO_TRACKING!r}")
        if self.uri != NO_TRACKING and not (self.run_name and self.spool_dir):
            raise ValueError(
                f"got run_name={self.run_name!r}, spool_dir={self.spool_dir!r}; tracking needs both: "
                "a name and a local folder that is this run's own"
            )


class Tracker:
    """The null tracker: takes everything, keeps nothing. ``MlflowTracker`` is the real one."""

    keeps_records = False

    @property
    def run_id(self) -> str:
        """The MLflow run id; "" without tracking or until the server answered for the first time."""
        return ""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log settings; nested mappings become dotted keys. The first value of a key stays, another is refused."""

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set or replace tags of the run."""

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Log one point of each metric."""

    def last_step(self, metric: str) -> int:
        """Largest step of ``metric`` logged so far, delivered or not; -1 without one.

        A resumed job logs only later steps, so that no step has two points.
        """
        return -1

    def log_input(self, name: str, *, source: str, digest: str) -> None:
        """Record that the run read the data set ``name`` from ``source`` with this manifest digest."""

    def log_artifact(self, path: str | Path, *, folder: str = "") -> None:
        """Attach a copy of a local file or folder, under ``folder`` of the run's artifacts."""

    def log_model(self, bundle_folder: str | Path, *, name: str = "model", register_as: str = "") -> str:
        """Attach a model bundle as a loadable MLflow model -> its ``models:/`` URI.

        ``register_as`` is the name of a registered model that gets a new version, and by option an alias that then
        points to it: ``NAME`` or ``NAME@ALIAS``.

        "" if MLflow or its artifact store does not take it: calling again tries again. A bundle that the run holds
        under this name is not uploaded twice.

        Raises:
            ValueError: no valid bundle there.
        """
        return ""

    def finish(self, status: Status = "FINISHED") -> int:
        """Deliver what is left, for a bounded time, and end the run -> number of records that remain in the spool."""
        return 0

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        else:
            self.finish("KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED")


def open_tracker(spec: TrackerSpec) -> Tracker:
    """Open the run of ``spec``; with a silent server the run is created later and the job goes on.

    Raises:
        ValueError: the server knows no such run, refuses the credentials, or the spool belongs to another run.
    """
    if spec.uri == NO_TRACKING:
        return Tracker()
    # MLflow takes seconds to import and starts its telemetry then: only the process that owns a run pays for it.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from cluster.mlflow_sink import MlflowSink, quiet_mlflow

    quiet_mlflow()
    outbox = Path(spec.spool_dir) / "outbox"
    sink = MlflowSink(spec.uri, experiment=spec.experiment, run_name=spec.run_name, outbox=outbox)
    return MlflowTracker(spec, sink, outbox=outbox)


class MlflowTracker(Tracker):
    """An MLflow run behind a spool."""

    keeps_records = True

    def __init__(self, spec: TrackerSpec, sink: "MlflowSink", *, outbox: Path) -> None:
        self._sink, self._outbox = sink, outbox
        self._spool = Spool(spec.spool_dir, spool_id=spec.spool_id)
        self._last_time_ms = 0
        self._finished = False
        if spec.run_id:
            self._adopt(spec.run_id)
        if self.run_id:
            self._append(status="RUNNING")
        self._shipper = Shipper(self._spool, sink)
        self._shipper.start()
        self._shipper.wait_first_try(OPEN_SERVER_S if spec.uri.startswith("http") else OPEN_DATABASE_S)
        if isinstance(self._shipper.last_error, ValueError):
            self._shipper.stop(OPEN_SERVER_S)
            self._spool.close()
            raise self._shipper.last_error

    def _adopt(self, run_id: str) -> None:
        if self._spool.run_id not in ("", run_id):
            known, folder = self._spool.run_id, self._spool.folder
            self._spool.close()
            raise ValueError(f"got run_id={run_id!r}, but {folder} belongs to run {known!r}; use a folder of its own")
        self._spool.bind(run_id)

    @property
    def run_id(self) -> str:
        return self._spool.run_id

    def _append(self, **record: Any) -> None:
        self._spool.append({**record, "time_ms": self._next_time_ms()})

    def _next_time_ms(self) -> int:
        """Now, but later than any time before: (metric, step, time) then names a point, which makes repeats visible."""
        self._last_time_ms = max(self._last_time_ms + 1, time.time_ns() // 1_000_000)
        return self._last_time_ms

    def log_params(self, params: Mapping[str, Any]) -> None:
        for key, value in flatten(params).items():
            self._append(params={key: value[:MAX_PARAM_LENGTH]})

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        self._append(tags={key: value[:MAX_TAG_LENGTH] for key, value in flatten(tags).items()})

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        values = {clean_key(name): float(value) for name, value in metrics.items()}
        self._append(metrics=values, step=int(step))

    def last_step(self, metric: str) -> int:
        name = clean_key(metric)
        known = self._spool.last_steps.get(name, -1)
        if known >= 0 or not self._sink.run_id:
            return known
        try:
            return self._sink.last_step(name)
        except (UnavailableError, RejectedError) as error:
            log.warning("cannot ask for the last step of %s: %s", name, error)
            return known

    def log_input(self, name: str, *, source: str, digest: str) -> None:
        self._append(input={"name": name, "source": source, "digest": digest})

    def log_artifact(self, path: str | Path, *, folder: str = "") -> None:
        original = Path(path)
        if not original.exists():
            raise ValueError(f"got artifact {original}, which does not exist; write it before logging it")
        copy = self._outbox / str(self._next_time_ms()) / original.name
        copy.parent.mkdir(parents=True)
        if original.is_dir():
            shutil.copytree(original, copy)
        else:
            shutil.copyfile(original, copy)
        self._append(artifact=str(copy.relative_to(self._outbox)), folder=folder)

    def log_model(self, bundle_folder: str | Path, *, name: str = "model", register_as: str = "") -> str:
        from cluster.model_registry import log_bundle
        from fpig_core.bundle import bundle_id

        model_id = bundle_id(bundle_folder)
        try:
            uri = log_bundle(self._sink, Path(bundle_folder), model_id, name=name, register_as=register_as)
            self.set_tags({"model_id": model_id})
        # A job must outlive whatever the store behind a server throws (requests, boto, OS): the model is on storage.
        except Exception as error:
            log.warning("the model %s was not logged: %s", bundle_folder, cause(error))
            return ""
        return uri

    def finish(self, status: Status = "FINISHED") -> int:
        if self._finished:
            return 0
        self._finished = True
        try:
            self._append(status=status)
        except OSError as error:
            log.warning("the end of the run is not on record: %s", error)
        num_pending = self._shipper.flush(FLUSH_S)
        if num_pending:
            log.warning(
                "%d records wait in %s; they are delivered when this run is opened again with that folder",
                num_pending,
                self._spool.folder,
            )
        if self._spool.num_rejected:
            log.warning(
                "%d records were refused, see %s", self._spool.num_rejected, self._spool.folder / "rejected.jsonl"
            )
        if self._shipper.stop(OPEN_SERVER_S):
            self._spool.close()
        return num_pending


@functools.lru_cache(maxsize=4096)
def clean_key(key: str) -> str:
    """``key`` in the characters, length and path form MLflow takes."""
    legal = re.sub(r"[^\w\-. :/]", "_", key)[:MAX_KEY_LENGTH]
    return posixpath.normpath(legal).lstrip("./") or "_"


def flatten(values: Mapping[str, Any], *, prefix: str = "") -> dict[str, str]:
    """Nested mappings and dataclasses as dotted keys with text values."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = dataclasses.asdict(value)
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, prefix=f"{name}."))
        elif isinstance(value, (list, tuple, dict)):
            flat[clean_key(name)] = json.dumps(value, default=str)
        else:
            flat[clean_key(name)] = str(value)
    return flat
