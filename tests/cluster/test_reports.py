"""Reports of workers: joined to one, and kept with a checkpoint for a driver that did not hear them."""

import json
from pathlib import Path

import pytest

from cluster.checkpoints import CheckpointStore
from cluster.reports import WorkerReport, join_reports, kept_reports, write_reports
from cluster.validation import RankedQuery


def report(rank: int, step: int) -> WorkerReport:
    return {
        "step": step,
        "metrics": {"loss": step / 3},
        "load": {f"cpu_{rank}": 0.1 * rank},
        "rejected": [{"uid": f"bad-{rank}-{step}", "reason": "bad_container"}],
        "steps": [{"batch": step, "loss": step / 3, "uids": [f"uid-{rank}-{step}"]}],
        "queries": [RankedQuery("uid", "a caption ", 2, "other")] if rank == 0 else (),
    }


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    """One checkpoint of two workers, with the reports of three steps."""
    store = CheckpointStore(str(tmp_path / "checkpoints"))
    folder = store.new_folder(4)
    for rank in range(2):
        local = tmp_path / str(rank)
        local.mkdir()
        write_reports(local, [report(rank, step) for step in (1, 2, 3)], rank=rank)
        store.put(folder, local, rank=rank, num_workers=2, batch=4, best_val_r1=0.0)
    return store


def test_a_report_is_that_of_all_workers() -> None:
    joined = join_reports([report(0, 5), report(1, 5)])
    assert (joined.step, joined.metrics) == (5, {"loss": 5 / 3, "cpu_0": 0.0, "cpu_1": 0.1})
    assert [sample["uid"] for sample in joined.rejected] == ["bad-0-5", "bad-1-5"]
    assert joined.steps == [{"batch": 5, "loss": 5 / 3, "uids": ["uid-0-5", "uid-1-5"]}]
    assert joined.queries == [RankedQuery("uid", "a caption ", 2, "other")]


def test_what_a_checkpoint_keeps_is_what_was_told(store: CheckpointStore) -> None:
    newest = store.newest_complete()
    assert newest
    assert kept_reports(store, newest) == [join_reports([report(0, step), report(1, step)]) for step in (1, 2, 3)]


@pytest.mark.parametrize("content", [b"\xff", json.dumps([1] * 2).encode()[:-1], b"[]"])
def test_damaged_reports_are_left_out(store: CheckpointStore, caplog, content: bytes) -> None:
    newest = store.newest_complete()
    assert newest
    store.fs.pipe_file(f"{store.root}/{newest.folder}/reports-00001.json", content)
    assert kept_reports(store, newest) == []
    assert "are damaged" in caplog.text
