"""What the driver does around a group: it takes reports one at a time, and waits for nobody when it is to end."""

import threading
import types
from typing import Any

import pytest
from ray.train import WorkerGroupError

from cluster import group
from cluster.placement import Placement

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
    with pytest.raises(error):
        group.run_group(task, [()], None, use_gpu=False, on_report=handler, should_stop=bool, is_starved=bool)
    assert not over.is_set()
    assert ended == ["worker"]
    over.set()
    handler.go.set()
