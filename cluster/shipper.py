"""The thread that delivers a spool, each record once.

A delivery whose outcome is unknown (the process or the connection broke in the middle) is repeated as ``uncertain``:
the sink then asks the server what arrived before it sends anything again.
"""

import logging
import threading
import time
from typing import NamedTuple, Protocol

from cluster.redact import redact
from cluster.spool import Batch, Record, Spool

log = logging.getLogger(__name__)

MAX_DELAY_S = 30.0


class UnavailableError(Exception):
    """The server cannot be reached or cannot answer now; the same delivery may work later."""


class RejectedError(Exception):
    """The server will never take these records."""


class Refusal(NamedTuple):
    """A record that will never be taken, and why."""

    record: Record
    reason: str


class Sink(Protocol):
    """Where records go."""

    def connect(self, spool_id: str, run_id: str) -> str:
        """Open the run ``run_id``, or find or create the one that belongs to ``spool_id`` -> run id."""
        ...

    def deliver(self, records: list[Record], *, uncertain: bool) -> list[Refusal]:
        """Hand over records in order -> those that are refused while all others arrived.

        ``uncertain``: some of them may have arrived before.
        """
        ...


class Delivery:
    """Moves records from a spool to a sink; without a thread of its own."""

    def __init__(self, spool: Spool, sink: Sink) -> None:
        self._spool, self._sink = spool, sink
        self._uncertain = spool.num_pending > 0
        self._connected = False

    def drain(self) -> None:
        """Deliver all there is. Whatever the sink raises, except a refusal, ends it; calling again goes on."""
        self._spool.sync()
        if not self._connected:
            self._spool.bind(self._sink.connect(self._spool.spool_id, self._spool.run_id))
            self._connected = True
        while (batch := self._spool.read()).records:
            uncertain, self._uncertain = self._uncertain, True
            try:
                self._set_aside(self._sink.deliver(batch.records, uncertain=uncertain))
                self._spool.commit(batch.ends[-1], num_records=len(batch.records))
            except RejectedError:
                self._deliver_singly(batch)
            self._uncertain = False

    def _deliver_singly(self, batch: Batch) -> None:
        """Find the records that made the server refuse a batch and set them aside."""
        for record, end in zip(batch.records, batch.ends, strict=True):
            try:
                refusals = self._sink.deliver([record], uncertain=True)
            except RejectedError as error:
                refusals = [Refusal(record, str(error))]
            self._set_aside(refusals)
            self._spool.commit(end, num_records=1)

    def _set_aside(self, refusals: list[Refusal]) -> None:
        for record, reason in refusals:
            # Settings that a restart changed are refused one by one: the first speaks for all.
            if self._spool.num_rejected == 0 or "artifact" in record:
                what = record.get("artifact", "a record")
                log.warning("MLflow refused %s, kept in %s: %s", what, self._spool.folder, reason)
            self._spool.reject(record, reason)


class Shipper(threading.Thread):
    """Runs a delivery every ``interval_s``, with growing pauses while the server is away."""

    def __init__(self, spool: Spool, sink: Sink, *, interval_s: float = 2.0) -> None:
        super().__init__(name="metric-shipper", daemon=True)
        self._spool, self._delivery = spool, Delivery(spool, sink)
        self._interval_s = self._delay_s = interval_s
        self._stopping = False
        self._tried = threading.Event()
        self._wake = threading.Event()
        self._changed = threading.Condition()
        self.last_error: Exception | None = None

    def run(self) -> None:
        while True:
            self._try()
            with self._changed:
                self._changed.notify_all()
            self._tried.set()
            if self._stopping:
                return
            self._wake.wait(self._delay_s)
            self._wake.clear()

    def wait_first_try(self, timeout_s: float) -> bool:
        """Wait until the first delivery was tried -> whether it was, in time."""
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

    def _try(self) -> None:
        try:
            self._delivery.drain()
        # The thread must outlive whatever the storage behind a server throws (boto, sqlalchemy, OS): it tries again.
        except Exception as error:
            if type(error) is not type(self.last_error):
                log.warning("records wait in %s (%s: %s)", self._spool.folder, type(error).__name__, redact(error))
            self.last_error = error
            self._delay_s = min(2 * self._delay_s, MAX_DELAY_S)
        else:
            if self.last_error is not None:
                log.info("the tracking server answers again; everything is delivered")
            self.last_error, self._delay_s = None, self._interval_s
