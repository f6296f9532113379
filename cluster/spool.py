"""What waits for a tracking server: an append-only JSONL file, which never makes the caller wait for a network.

How much of it was delivered stands in a side file, replaced in one step after each delivery.
"""

import errno
import fcntl
import json
import logging
import os
import threading
import uuid
from pathlib import Path
from typing import Any, NamedTuple

log = logging.getLogger(__name__)

Record = dict[str, Any]

# A metric takes about five times more room in a request than here; MLflow refuses requests over one megabyte.
BATCH_BYTES = 128 * 1024


class Batch(NamedTuple):
    """Consecutive records and the file offset after each of them."""

    records: list[Record]
    ends: list[int]


class Spool:
    """Durable queue of records in ``folder``, owned by one process at a time.

    ``append`` survives the death of the process at once and the loss of power after the next ``sync``. A line that is
    damaged counts as an empty record. ``spool_id`` is the name of a new spool, random by default.

    Raises:
        ValueError: another process has this spool open.
    """

    def __init__(self, folder: str | Path, *, spool_id: str = "") -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock_file = self._own()
        self._append_lock = threading.Lock()
        self._state_path = self.folder / "committed.json"
        self._path = self.folder / "spool.jsonl"
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        state = json.loads(self._state_path.read_text()) if self._state_path.exists() else {}
        self.spool_id: str = state.get("spool_id") or spool_id or uuid.uuid4().hex
        self.run_id: str = state.get("run_id", "")
        self._offset: int = state.get("offset", 0)
        self.last_steps: dict[str, int] = state.get("last_steps", {})
        self._num_committed = 0
        self.num_rejected = 0
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
        records = [_parse(line) for line in data[self._offset : whole].splitlines()]
        for record in records:
            self._note_steps(record)
        if num_damaged := records.count({}):
            log.warning("%d damaged lines of %s are left out", num_damaged, self._path)
        return len(records)

    def _note_steps(self, record: Record) -> None:
        for metric in record.get("metrics", ()):
            self.last_steps[metric] = max(record["step"], self.last_steps.get(metric, -1))

    @property
    def num_pending(self) -> int:
        """Records not yet delivered."""
        return self._num_appended - self._num_committed

    def append(self, record: Record) -> None:
        """Write one record to the end of the file.

        Raises:
            OSError: the disk did not take all of it; then it holds none of it.
        """
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        with self._append_lock:
            num_written = os.write(self._file, line)
            if num_written < len(line):
                os.ftruncate(self._file, os.fstat(self._file).st_size - num_written)
                raise OSError(errno.ENOSPC, f"the disk took {num_written} of {len(line)} bytes", str(self._path))
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
            records.append(_parse(line))
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
        self.num_rejected += 1
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


def _parse(line: bytes) -> Record:
    """The record of a line; an empty one for a damaged line."""
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}
