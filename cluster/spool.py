"""Metrics on their way to a tracking server: a file that never waits, and a thread that delivers it once.

The spool is an append-only JSONL file. How much of it was delivered stands in a side file, replaced in one step after
each delivery. A delivery whose outcome is unknown (the process or the connection broke in the middle) is marked
``uncertain``: the sink then asks the server what arrived before it sends anything again.
"""

import contextlib
import fcntl
import json
import logging
import os
import threading
import time
import uuid
from pathlib import Path
from typing import Any, NamedTuple, Protocol

log = logging.getLogger(__name__)

Record = dict[str, Any]

# A metric takes about five times more room in a request than here; MLflow refuses requests over one megabyte.
BATCH_BYTES = 128 * 1024
MAX_DELAY_S = 30.0


class UnavailableError(Exception):
    """The server cannot be reached or cannot answer now; the same delivery may work later."""


class RejectedError(Exception):
    """The server will never take these records."""


class Sink(Protocol):
    """Where records go."""

    def connect(self, spool_id: str, run_id: str) -> str:
        """Open the run ``run_id``, or find or create the one that belongs to ``spool_id`` -> run id."""
        ...

    def deliver(self, records: list[Record], *, uncertain: bool) -> None:
        """Hand over records in order. ``uncertain``: some of them may have arrived before."""
        ...


class Batch(NamedTuple):
    """Consecutive records and the file offset after each of them."""

    records: list[Record]
    ends: list[int]


class Spool:
    """Durable queue of records in ``folder``, owned by one process at a time.

    ``append`` survives the death of the process at once and the loss of power after the next ``sync``.

    Raises:
        ValueError: another process has this spool open.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock_file = self._own()
        self._append_lock = threading.Lock()
        self._state_path = self.folder / "committed.json"
        self._path = self.folder / "spool.jsonl"
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        state = json.loads(self._state_path.read_text()) if self._state_path.exists() else {}
        self.spool_id: str = state.get("spool_id") or uuid.uuid4().hex
        self.run_id: str = state.get("run_id", "")
        self._offset: int = state.get("offset", 0)
        self.last_steps: dict[str, int] = state.get("last_steps", {})
        self._num_committed = 0
        self._num_appended = self._recover()
        if not state:
            self._write_state()

    def _own(self) -> int:
        handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise ValueError(
                f"the metric spool {self.folder} is open in another process; end that process or use another folder"
            ) from None
        return handle

    def _recover(self) -> int:
        """Cut a torn last line and take over the steps of what is still to be delivered -> number of records."""
        data = self._path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.ftruncate(self._file, whole)
        self._offset = min(self._offset, whole)
        lines = data[self._offset : whole].splitlines()
        for line in lines:
            self._note_steps(json.loads(line))
        return len(lines)

    def _note_steps(self, record: Record) -> None:
        for metric in record.get("metrics", ()):
            self.last_steps[metric] = max(record["step"], self.last_steps.get(metric, -1))

    @property
    def num_pending(self) -> int:
        """Records not yet delivered."""
        return self._num_appended - self._num_committed

    def append(self, record: Record) -> None:
        """Write one record to the end of the file."""
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        with self._append_lock:
            os.write(self._file, line)
            self._num_appended += 1
            self._note_steps(record)

    def read(self) -> Batch:
        """The oldest undelivered records; the batch is a function of the offset and what was appended since."""
        size = BATCH_BYTES
        data = os.pread(self._file, size, self._offset)
        while b"\n" not in data and len(data) == size:
            size *= 2
            data = os.pread(self._file, size, self._offset)
        records, ends, end = [], [], self._offset
        for line in data[: data.rfind(b"\n") + 1].splitlines(keepends=True):
            end += len(line)
            records.append(json.loads(line))
            ends.append(end)
        return Batch(records, ends)

    def commit(self, end: int, *, num_records: int) -> None:
        """Remember that everything before ``end`` was delivered."""
        self._offset = end
        self._num_committed += num_records
        self._write_state()

    def bind(self, run_id: str) -> None:
        """Remember the run this spool belongs to."""
        self.run_id = run_id
        self._write_state()

    def reject(self, record: Record, reason: str) -> None:
        """Keep a record the server will never take in ``rejected.jsonl``."""
        with open(self.folder / "rejected.jsonl", "a") as file:
            file.write(json.dumps({**record, "reason": reason}) + "\n")

    def sync(self) -> None:
        """Make what was appended survive a loss of power."""
        os.fsync(self._file)

    def close(self) -> None:
        """Sync and give the folder free for another process."""
        self.sync()
        os.close(self._file)
        os.close(self._lock_file)

    def _write_state(self) -> None:
        with self._append_lock:
            state = {
                "spool_id": self.spool_id,
                "run_id": self.run_id,
                "offset": self._offset,
                "last_steps": self.last_steps,
            }
            text = json.dumps(state)
        draft = self._state_path.with_suffix(".tmp")
        with open(draft, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._state_path)


class Shipper(threading.Thread):
    """Delivers a spool to a sink in the background, every ``interval_s`` and with growing pauses during an outage."""

    def __init__(self, spool: Spool, sink: Sink, *, interval_s: float = 2.0) -> None:
        super().__init__(name="metric-shipper", daemon=True)
        self._spool, self._sink, self._interval_s = spool, sink, interval_s
        self._uncertain = spool.num_pending > 0
        self._connected = False
        self._stopping = False
        self._tried = threading.Event()
        self._wake = threading.Event()
        self._changed = threading.Condition()
        self._delay_s = interval_s
        self.last_error: Exception | None = None

    def run(self) -> None:
        while True:
            self._round()
            with self._changed:
                self._changed.notify_all()
            self._tried.set()
            if self._stopping:
                return
            self._wake.wait(self._delay_s)
            self._wake.clear()

    def wait_first_try(self, timeout_s: float) -> bool:
        """Wait until the first connection was tried -> whether it was, in time."""
        return self._tried.wait(timeout_s)

    def flush(self, timeout_s: float) -> int:
        """Try to deliver everything for at most ``timeout_s`` -> records that remain."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self._spool.num_pending and (left_s := deadline - time.monotonic()) > 0:
                self._wake.set()
                self._changed.wait(min(left_s, 0.5))
        return self._spool.num_pending

    def stop(self, timeout_s: float) -> bool:
        """End the thread after its current round -> whether it ended in time."""
        self._stopping = True
        self._wake.set()
        self.join(timeout_s)
        return not self.is_alive()

    def _round(self) -> None:
        try:
            self._spool.sync()
            if not self._connected:
                self._spool.bind(self._sink.connect(self._spool.spool_id, self._spool.run_id))
                self._connected = True
            while (batch := self._spool.read()).records:
                self._ship(batch)
        # The thread must outlive whatever the storage behind a server throws (boto, sqlalchemy, OS): it retries.
        except Exception as error:
            self._after_failure(error)
        else:
            if self.last_error is not None:
                log.info("tracking server answers again; all metrics are delivered")
            self.last_error, self._delay_s = None, self._interval_s

    def _after_failure(self, error: Exception) -> None:
        if self.last_error is None:
            log.warning("metrics wait in %s (%s: %s)", self._spool.folder, type(error).__name__, error)
        self.last_error = error
        self._uncertain = self._uncertain or self._connected
        self._delay_s = min(2 * self._delay_s, MAX_DELAY_S)

    def _ship(self, batch: Batch) -> None:
        with contextlib.suppress(RejectedError):
            self._sink.deliver(batch.records, uncertain=self._uncertain)
            self._spool.commit(batch.ends[-1], num_records=len(batch.records))
            self._uncertain = False
            return
        for record, end in zip(batch.records, batch.ends, strict=True):
            try:
                self._sink.deliver([record], uncertain=True)
            except RejectedError as error:
                log.warning("the tracking server refused a record, kept in %s: %s", self._spool.folder, error)
                self._spool.reject(record, str(error))
            self._spool.commit(end, num_records=1)
        self._uncertain = False
