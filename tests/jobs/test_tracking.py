"""The MLflow run of an output: the same after a restart, another for another output or server."""

import json
from pathlib import Path

import pytest

from cluster.tracking import TrackerSpec
from jobs import tracking


class FakeTracker:
    """Gives run ids one after the other, and resumes the one it is told."""

    opened: list[TrackerSpec]

    def __init__(self, spec: TrackerSpec) -> None:
        self.run_id = spec.run_id or f"run{len(self.opened)}"
        self.opened.append(spec)

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def opened(monkeypatch, tmp_path) -> list[TrackerSpec]:
    monkeypatch.setattr(FakeTracker, "opened", [], raising=False)
    monkeypatch.setattr(tracking, "open_tracker", FakeTracker)
    monkeypatch.setenv(tracking.SPOOL_VARIABLE, str(tmp_path / "spool"))
    return FakeTracker.opened


def run_of(output: Path, uri: str = "http://user:secret@host") -> str:
    with tracking.output_run(str(output), tracking=uri, name="name") as tracker:
        return tracker.run_id


def test_a_restarted_job_goes_on_with_its_run(tmp_path, opened) -> None:
    assert run_of(tmp_path / "a") == run_of(tmp_path / "a") == "run0"
    assert opened[0].spool_dir == opened[1].spool_dir


def test_other_outputs_servers_and_fresh_starts_have_runs_of_their_own(tmp_path, opened) -> None:
    first = run_of(tmp_path / "a")
    (tmp_path / "a" / tracking.RECORD).unlink()
    runs = [first, run_of(tmp_path / "a"), run_of(tmp_path / "b"), run_of(tmp_path / "b", "http://other")]
    assert len(set(runs)) == 4
    assert len({spec.spool_dir for spec in opened}) == 4


def test_the_record_holds_no_password(tmp_path) -> None:
    run_of(tmp_path / "a")
    assert "secret" not in (tmp_path / "a" / tracking.RECORD).read_text()


def test_a_run_id_that_comes_late_is_kept(tmp_path) -> None:
    for run_id in ("", "late"):
        with tracking.output_run(str(tmp_path), tracking="http://away", name="name") as tracker:
            vars(tracker)["run_id"] = run_id
    assert json.loads((tmp_path / tracking.RECORD).read_text())["run_id"] == "late"


def test_only_what_waits_here_is_delivered(tmp_path, opened) -> None:
    tracking.deliver_waiting(str(tmp_path / "a"), tracking="http://host", name="name")
    assert opened == []
    run_of(tmp_path / "a", "http://host")
    Path(opened[0].spool_dir).mkdir(parents=True)
    tracking.deliver_waiting(str(tmp_path / "a"), tracking="http://host", name="name")
    assert len(opened) == 2
    tracking.deliver_waiting(str(tmp_path / "a"), tracking="http://other", name="name")
    assert len(opened) == 2


def test_the_run_is_on_record_while_the_job_works(tmp_path, opened) -> None:
    with tracking.output_run(str(tmp_path), tracking="http://host", name="name") as tracker:
        record = json.loads((tmp_path / tracking.RECORD).read_text())
        assert record["run_id"] == tracker.run_id == "run0"
    assert opened[0].spool_id == record["key"]
