import contextlib
import tempfile

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.shipper import Delivery, Refusal, RejectedError, Shipper, UnavailableError
from cluster.spool import Spool


class CrashError(Exception):
    """Stands for the death of the process: nothing after it runs."""


class FakeServer:
    """Keeps points; each delivery follows the next entry of ``script``."""

    def __init__(self, script: list[str] | None = None) -> None:
        self.script = list(script or [])
        self.points: list[int] = []
        self.num_runs = 0

    def connect(self, spool_id: str, run_id: str) -> str:
        self.num_runs += not run_id
        return run_id or spool_id

    def deliver(self, records: list[dict], *, uncertain: bool) -> list[Refusal]:
        outcome = self.script.pop(0) if self.script else "ok"
        if outcome == "away":
            raise UnavailableError(outcome)
        if any(record["step"] < 0 for record in records):
            raise RejectedError("negative step")
        steps = [record["step"] for record in records]
        self.points += [step for step in steps if not (uncertain and step in self.points)]
        if outcome == "answer lost":
            raise UnavailableError(outcome)
        if outcome == "crash":
            raise CrashError
        return [Refusal(record, "odd step") for record in records if outcome == "odd" and record["step"] % 2]


def append(spool: Spool, *steps: int) -> None:
    for step in steps:
        spool.append({"metrics": {"loss": 0.5}, "step": step, "time_ms": step})


@settings(max_examples=60, deadline=None)
@given(
    script=st.lists(st.sampled_from(["ok", "away", "answer lost", "crash"]), max_size=12),
    sizes=st.lists(st.integers(0, 4), min_size=1, max_size=15),
)
def test_every_point_arrives_once_and_in_order_after_any_failures(script, sizes):
    server, num_points = FakeServer(script), 0
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(folder)
        delivery = Delivery(spool, server)
        for size in [*sizes, *[0] * (len(script) + 1)]:
            append(spool, *range(num_points, num_points + size))
            num_points += size
            try:
                with contextlib.suppress(UnavailableError):
                    delivery.drain()
            except CrashError:
                spool.close()
                spool = Spool(folder)
                delivery = Delivery(spool, server)
        assert spool.num_pending == 0
        spool.close()
    assert server.points == list(range(num_points))
    assert server.num_runs == 1


def test_a_refused_record_is_set_aside_and_the_others_arrive(tmp_path):
    server, spool = FakeServer(), Spool(tmp_path)
    append(spool, 0, -1, 2)
    Delivery(spool, server).drain()
    assert server.points == [0, 2]
    assert spool.num_rejected == 1
    assert '"reason": "negative step"' in (tmp_path / "rejected.jsonl").read_text()


def test_what_is_refused_beside_records_that_arrive_costs_no_second_delivery(tmp_path):
    server, spool = FakeServer(["odd"]), Spool(tmp_path)
    append(spool, 0, 1, 2)
    Delivery(spool, server).drain()
    assert (server.points, spool.num_pending, spool.num_rejected) == ([0, 1, 2], 0, 1)
    assert '"reason": "odd step"' in (tmp_path / "rejected.jsonl").read_text()


def test_the_thread_survives_an_outage_and_flushes(tmp_path):
    server, spool = FakeServer(["away", "away", "ok"]), Spool(tmp_path)
    shipper = Shipper(spool, server, interval_s=0.01)
    append(spool, 0, 1, 2)
    shipper.start()
    assert shipper.flush(10) == 0
    assert shipper.stop(10)
    assert server.points == [0, 1, 2]


def test_flush_is_bounded_and_tells_what_remains(tmp_path):
    server, spool = FakeServer(["away"] * 10_000), Spool(tmp_path)
    shipper = Shipper(spool, server, interval_s=0.01)
    append(spool, 0, 1)
    shipper.start()
    assert shipper.flush(0.2) == 2
    assert shipper.stop(10)
