"""The best bundle of a run: complete or invisible, whenever its worker is killed; and known to all workers."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from botocore.exceptions import EndpointConnectionError

from cluster.best import BestBundle
from fpig_core.bundle import WEIGHTS, bundle_id
from tests.cluster.gloo import run_workers
from tests.methods import build_method


class KilledError(BaseException):
    """The process ends here."""


def model_of(seed: int) -> Any:
    model = build_method("mean_pool")
    torch.nn.init.normal_(next(model.parameters()), generator=torch.Generator().manual_seed(seed))
    return model


def save(best: BestBundle, seed: int, *, batch: int = 7, r1: float = 50.0) -> None:
    best.save(model_of(seed), batch=batch, validation={"t2v_r1": r1})


def fetch(best: BestBundle, local: Path) -> dict[str, Any]:
    """The record of what is fetched, whose files must be its own."""
    record = best.fetch(local)
    assert bundle_id(local) == record["model_id"]
    return record


def killed_at(call: Callable[..., Any], *, after: int) -> Callable[..., Any]:
    left = iter(range(after))

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        if next(left, None) is None:
            raise KilledError
        return call(*args, **kwargs)

    return interrupted


@pytest.fixture
def best(tmp_path: Path) -> BestBundle:
    bundle = BestBundle(str(tmp_path / "best"))
    # Not the one that fsspec keeps for all: a test spoils it.
    bundle.fs = type(bundle.fs)(skip_instance_cache=True)
    return bundle


@pytest.mark.parametrize(("call", "after"), [("put_file", 0), ("put_file", 1), ("pipe_file", 0)])
def test_a_kill_while_a_validation_is_repeated_leaves_the_bundle_before(best, tmp_path, monkeypatch, call, after):
    save(best, 1)
    first = fetch(best, tmp_path / "first")
    with monkeypatch.context() as spoiled:
        spoiled.setattr(best.fs, call, killed_at(getattr(best.fs, call), after=after))
        with pytest.raises(KilledError):
            save(best, 2)
    assert fetch(best, tmp_path / "again") == first
    save(best, 3)
    assert fetch(best, tmp_path / "third")["model_id"] != first["model_id"]
    assert len(list((tmp_path / "best").iterdir())) == 1


def test_a_kill_while_one_is_removed_leaves_the_new_one(best, tmp_path, monkeypatch):
    save(best, 1, batch=7, r1=50.0)

    def remove_one(folder: str, **_: Any) -> None:
        (Path(folder) / WEIGHTS).unlink()
        raise KilledError

    monkeypatch.setattr(best.fs, "rm", remove_one)
    with pytest.raises(KilledError):
        save(best, 2, batch=9, r1=49.0)
    assert fetch(best, tmp_path / "local")["batch"] == 9


def test_a_record_that_was_cut_off_does_not_count(best, tmp_path):
    save(best, 1)
    (record,) = (tmp_path / "best").glob("*/validation.json")
    record.write_bytes(record.read_bytes()[:-5])
    with pytest.raises(RuntimeError, match=r"no complete bundle under .*jobs.export makes a bundle of a checkpoint"):
        best.fetch(tmp_path / "local")


def test_one_that_cannot_be_removed_stands_in_nobodys_way(best, tmp_path, monkeypatch, caplog):
    def refuse(folder: str, **_: Any) -> None:
        raise PermissionError("the store refuses")

    save(best, 1, batch=7, r1=50.0)
    monkeypatch.setattr(best.fs, "rm", refuse)
    save(best, 2, batch=9, r1=51.0)
    assert "were not removed (PermissionError: the store refuses)" in caplog.text
    assert fetch(best, tmp_path / "local")["batch"] == 9


def keep_two(rank: int, num_workers: int, folder: str) -> list[float]:
    """The best value after a bundle that cannot be saved, and after one that is less good and can."""
    from cluster.worker import TrainWorker

    logging.getLogger("cluster.best").addHandler(logging.FileHandler(f"{folder}/log-{rank}"))

    class Worker(TrainWorker):
        def __init__(self) -> None:
            self.rank, self.model, self.best_val_r1 = rank, model_of(1), 10.0
            self.task: Any = type("Task", (), {"best": BestBundle(f"{folder}/best")})

    worker, told = Worker(), []
    fs, put_file = worker.task.best.fs, worker.task.best.fs.put_file
    for batch, r1 in enumerate((50.0, 40.0)):
        fs.put_file = put_file if batch else _reach_nobody
        worker._keep_best({"t2v_r1": r1}, batch)
        told.append(worker.best_val_r1)
    return told


def _reach_nobody(source: str, target: str) -> None:
    raise EndpointConnectionError(endpoint_url="http://127.0.0.1:9")


def test_a_store_that_is_away_costs_the_bundle_and_not_the_training(tmp_path):
    assert run_workers(keep_two, 2, str(tmp_path)) == [[10.0, 40.0]] * 2
    assert fetch(BestBundle(str(tmp_path / "best")), tmp_path / "local")["validation"] == {"t2v_r1": 40.0}
    assert "of batch 0, was not saved" in (tmp_path / "log-0").read_text()
    assert "EndpointConnectionError: Could not connect" in (tmp_path / "log-0").read_text()
    assert (tmp_path / "log-1").read_text() == ""
