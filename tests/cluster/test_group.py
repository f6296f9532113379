"""What the driver does around a group: it takes reports one at a time, and waits for nobody when it is to end."""

import threading
import types
from typing import Any

import pytest
import ray
from ray.train import WorkerGroupError

from cluster import group
from cluster.placement import Placement
from cluster.pulse import Beat, open_board

LIMIT_S = 60


class Handler:
    """Takes reports: ``slow`` ones until it is let go, and none that is ``bad``."""

    def __init__(self) -> None:
        self.begun, self.go, self.taken, self.at_once = threading.Event(), threading.Event(), [], 0

    def __call__(self, report: Any) -> None:
        self.at_once += 1
        assert self.at_once == 1
        self.begun.set()
        if report == "slow":
            assert self.go.wait(LIMIT_S)
        self.at_once -= 1
        if report == "bad":
            raise OSError("no answer")
        self.taken.append(report)


@pytest.mark.parametrize("error", [None, WorkerGroupError("why", {})])
def test_all_that_was_told_is_handled_before_a_group_is_over(ray_local, error: Exception | None) -> None:
    handler = Handler()

    def work() -> None:
        with group._relay(handler) as queue:
            for report in ("slow", "bad", "last"):
                queue.put(report)
            assert handler.begun.wait(LIMIT_S)
            threading.Timer(2, handler.go.set).start()
            if error:
                raise error

    if error:
        with pytest.raises(WorkerGroupError):
            work()
    else:
        work()
    assert handler.taken == ["slow", "last"]


def test_a_handler_without_end_is_told_and_called_no_more(ray_local, monkeypatch, caplog) -> None:
    monkeypatch.setattr(group, "HANDLE_S", 0.1)
    handler, before = Handler(), set(threading.enumerate())
    threads = []

    def work() -> None:
        with group._relay(handler) as queue:
            threads.extend(each for each in set(threading.enumerate()) - before if each.name == "reports")
            queue.put("slow")
            queue.put("next")
            assert handler.begun.wait(LIMIT_S)

    with pytest.raises(RuntimeError, match=r"not handled within 0.1 s; .*start the same command again"):
        work()
    (thread,) = threads
    handler.go.set()
    thread.join(LIMIT_S)
    assert not thread.is_alive()
    assert handler.taken == ["slow"]
    assert not caplog.records


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_what_ends_the_watch_waits_for_neither_training_nor_reports(ray_local, monkeypatch, tmp_path, error) -> None:
    begun, over, handler, ended = threading.Event(), threading.Event(), Handler(), []

    class Trainer:
        def __init__(self, *_: Any, run_config: Any, **__: Any) -> None:
            (self.callback,) = run_config.callbacks

        def fit(self) -> None:
            self.callback.queue.put("slow")
            begun.set()
            assert over.wait(LIMIT_S)

    def look(watch: Any) -> None:
        watch._beats = {0: (0.0, types.SimpleNamespace(actor="worker"))}
        assert begun.wait(LIMIT_S)
        assert handler.begun.wait(LIMIT_S)
        raise error

    monkeypatch.setattr(group, "TorchTrainer", Trainer)
    monkeypatch.setattr(group._Watch, "look", look)
    kill = group.ray.kill
    monkeypatch.setattr(group.ray, "kill", lambda actor: ended.append(actor) if actor == "worker" else kill(actor))
    task: Any = types.SimpleNamespace(run_url=str(tmp_path), placement=Placement())
    never = {"should_stop": bool, "is_outgrown": bool, "is_starved": bool}
    with pytest.raises(error):
        group.run_group(task, [()], None, use_gpu=False, on_report=handler, **never)
    assert not over.is_set()
    assert ended == ["worker"]
    over.set()
    handler.go.set()


def test_a_group_is_held_against_the_cluster_once_it_has_workers(ray_local) -> None:
    """Before, the room that it will take looks free."""
    alive = Beat(batch=0, stage="start", lasting_s=0, where="here", actor=None)
    with open_board() as board:
        watch = group._Watch(board, hang_after_s=LIMIT_S, should_stop=bool, is_outgrown=lambda: True, is_starved=bool)
        watch.look()
        assert not ray.get(board.beat.remote(0, alive))
        watch.look()
        assert ray.get(board.beat.remote(0, alive))
