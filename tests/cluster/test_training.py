"""What follows on the end of a worker group, told from groups that only move the newest checkpoint."""

import contextlib
import dataclasses
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

from cluster import training
from cluster.checkpoints import Checkpoint
from cluster.meter import LossError
from cluster.placement import Placement
from cluster.training import StoppedError, run_training
from fpig_core.schedule import Schedule

SCHEDULE = Schedule(num_train=40, num_val=4, global_batch=4, epochs=1)
Group = Callable[["Scene"], Any]


@dataclasses.dataclass
class Scene:
    """A run whose groups are functions of the scene. ``rooms`` are told one after another, the last one for ever; 0
    is too little. ``spare_cpus`` are what a group sees beside itself, ``now`` is its clock."""

    placement: Placement
    groups: list[Group]
    rooms: list[int] = dataclasses.field(default_factory=lambda: [2])
    schedule: Schedule = SCHEDULE
    stopped: bool = False
    newest: Checkpoint | None = None
    starts: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    told: list[str] = dataclasses.field(default_factory=list)
    waits: list[int] = dataclasses.field(default_factory=list)
    wants_stop: Callable[[], bool] = bool
    is_starved: Callable[[], bool] = bool
    cpus: float = 99.0
    spare_cpus: float = 99.0
    now: float = 0.0

    @property
    def checkpoints(self) -> "Scene":
        return self

    def newest_complete(self) -> Checkpoint | None:
        return self.newest

    def save(self, batch: int) -> None:
        self.newest = Checkpoint(folder=f"batch-{batch}", batch=batch, best_val_r1=0.0, files={})

    def room(self, *, enough: int = 0) -> int:
        self.waits.append(enough)
        found = self.rooms.pop(0) if len(self.rooms) > 1 else self.rooms[0]
        if not found:
            raise ValueError("too little")
        return found


def play(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    groups, open_streams = iter(scene.groups), []

    @contextlib.contextmanager
    def make_stream(first_batch: int, num_workers: int) -> Iterator[Any]:
        open_streams.append((first_batch, num_workers))
        yield open_streams[-1]
        open_streams.pop()

    def run_group(
        task: Any, shares: Any, checkpoint: Any, *, should_stop: Any, is_outgrown: Any, is_starved: Any, **_: Any
    ) -> None:
        assert open_streams == [shares]
        assert shares[0] == (checkpoint.batch if checkpoint else 0)
        scene.starts.append(shares)
        scene.wants_stop, scene.is_starved = (lambda: should_stop() or is_outgrown()), is_starved
        next(groups)(scene)

    monkeypatch.setattr(training, "run_group", run_group)
    monkeypatch.setattr(training, "uses_gpus", lambda placement: False)
    monkeypatch.setattr(training, "asking_for_nodes", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(training, "wait_for_room", lambda *_, enough, **__: scene.room(enough=enough))
    monkeypatch.setattr(training, "node_resources", lambda: [{"CPU": scene.cpus}])
    monkeypatch.setattr(training, "spare_resources", lambda: [{"CPU": scene.spare_cpus}])
    monkeypatch.setattr(training, "time", types.SimpleNamespace(monotonic=lambda: scene.now))
    monkeypatch.setattr(training, "kept_reports", lambda store, checkpoint: [f"before {checkpoint.batch}"])
    task: Any = scene
    told: Any = scene.told.append
    run_training(task, make_stream, on_report=told, should_stop=lambda: scene.stopped)


def to_the_end(scene: Scene) -> None:
    scene.save(SCHEDULE.num_batches)


def fails(*, after: int = 0, error: Exception | None = None) -> Group:
    def group(scene: Scene) -> None:
        if after:
            scene.save(after)
        raise WorkerGroupError("why", {1: error or RuntimeError("why")})

    return group


def test_a_group_follows_on_a_failure_from_the_newest_checkpoint_with_the_room_of_then(monkeypatch) -> None:
    scene = Scene(Placement(num_workers=2, min_workers=1), [fails(after=3), fails(), to_the_end], rooms=[2, 1, 2])
    play(scene, monkeypatch)
    assert scene.starts == [(0, 2), (3, 1), (3, 2)]
    # What died on its way to the driver is in the checkpoint.
    assert scene.told == ["before 3", "before 3", f"before {SCHEDULE.num_batches}"]


def test_reports_that_cannot_be_taken_up_do_not_end_the_training(monkeypatch) -> None:
    class Refusing(list[str]):
        def append(self, report: str) -> None:
            raise RuntimeError("no connection")

    scene = Scene(Placement(), [fails(after=3), to_the_end], told=Refusing())
    play(scene, monkeypatch)
    assert scene.starts == [(0, 2), (3, 2)]


@pytest.mark.parametrize("max_failures", [0, 2])
def test_failures_count_between_checkpoints(monkeypatch, max_failures: int) -> None:
    progress: Iterable[Group] = [fails(after=batch) for batch in range(1, 5)] if max_failures else []
    scene = Scene(Placement(max_failures=max_failures), [*progress, *[fails()] * 9])
    with pytest.raises(RuntimeError, match=rf"failed {max_failures + 1} times in a row .*max_failures={max_failures}"):
        play(scene, monkeypatch)
    assert len(scene.starts) == (4 + max_failures if max_failures else 1)


def test_a_loss_that_is_no_number_is_not_tried_again(monkeypatch) -> None:
    scene = Scene(Placement(), [fails(after=2, error=LossError("batch 3: loss nan"))])
    with pytest.raises(RuntimeError, match="batch 3: loss nan"):
        play(scene, monkeypatch)


def test_who_is_asked_to_stop_stops_after_the_group(monkeypatch) -> None:
    def stop(scene: Scene) -> None:
        assert not scene.wants_stop()
        scene.stopped = True
        assert scene.wants_stop()
        scene.save(4)

    scene = Scene(Placement(), [stop])
    with pytest.raises(StoppedError):
        play(scene, monkeypatch)
    assert scene.newest
    assert scene.newest.batch == 4


@pytest.mark.parametrize(
    ("error", "told"), [(OSError("the last one was not saved"), "not saved"), (LossError("nan"), "nan")]
)
def test_a_stop_whose_group_fails_is_a_failure_with_its_cause(monkeypatch, caplog, error: Exception, told: str) -> None:
    def stop(scene: Scene) -> None:
        scene.stopped = True
        fails(after=2, error=error)(scene)

    with pytest.raises(RuntimeError, match=told):
        play(Scene(Placement(), [stop]), monkeypatch)
    assert told in caplog.text


def test_who_is_asked_to_stop_while_it_waits_for_room_starts_no_group(monkeypatch) -> None:
    scene = Scene(Placement(), [fails(after=2)])

    def stop(*, enough: int) -> int:
        scene.stopped = bool(scene.starts)
        return 2

    monkeypatch.setattr(scene, "room", stop)
    with pytest.raises(StoppedError):
        play(scene, monkeypatch)
    assert scene.starts == [(0, 2)]


def test_a_cluster_that_is_too_small_is_wrong_use_before_the_first_group_and_a_failure_after_it(monkeypatch) -> None:
    with pytest.raises(ValueError, match="too little"):
        play(Scene(Placement(), [], rooms=[0]), monkeypatch)
    with pytest.raises(RuntimeError, match=r"too little.* the same command"):
        play(Scene(Placement(), [fails(after=2)], rooms=[2, 0]), monkeypatch)


def is_refused(scene: Scene) -> None:
    scene.now += 60
    raise ControllerError(WorkerGroupStartupTimeoutError(num_workers=scene.starts[-1][1]))


def test_a_group_without_a_place_has_not_failed_and_is_tried_smaller(monkeypatch) -> None:
    placement = Placement(num_workers=3, min_workers=1, max_failures=0, wait_for_nodes_s=1000)
    scene = Scene(placement, [is_refused, is_refused, is_refused, to_the_end], rooms=[3])
    play(scene, monkeypatch)
    assert scene.starts == [(0, 3), (0, 2), (0, 1), (0, 1)]


def test_a_place_is_waited_for_as_long_as_for_nodes(monkeypatch) -> None:
    scene = Scene(Placement(num_workers=2, wait_for_nodes_s=150), [is_refused] * 9)
    with pytest.raises(
        RuntimeError, match=r"no place for 2 workers.*timed out.*150 s with --placement.wait-for-nodes-s"
    ):
        play(scene, monkeypatch)
    assert len(scene.starts) == 3


def test_who_is_asked_to_stop_without_a_place_has_lost_nothing(monkeypatch) -> None:
    def stop(scene: Scene) -> None:
        scene.stopped = True
        is_refused(scene)

    with pytest.raises(StoppedError):
        play(Scene(Placement(wait_for_nodes_s=1), [stop]), monkeypatch)


def test_a_smaller_group_makes_way_for_a_larger_one(monkeypatch) -> None:
    def make_way(scene: Scene) -> None:
        assert scene.wants_stop()
        scene.save(5)

    placement = Placement(num_workers=2, min_workers=1, grow_after_s=0)
    scene = Scene(placement, [make_way, fails(after=7), to_the_end], rooms=[1, 2, 1])
    play(scene, monkeypatch)
    assert scene.starts == [(0, 1), (5, 2), (7, 1)]
    assert scene.waits == [2, 2, 1], "the room that was seen is waited for, and no more"


def test_a_group_grows_by_what_is_left_beside_it(monkeypatch) -> None:
    placement = Placement(num_workers=2, min_workers=1, grow_after_s=0, cpus_per_worker=2, decode_cpus=2)

    def stay(scene: Scene) -> None:
        scene.spare_cpus = 3
        assert not scene.wants_stop()
        scene.spare_cpus = 4
        assert scene.wants_stop()
        to_the_end(scene)

    play(Scene(placement, [stay], rooms=[1]), monkeypatch)


def test_growing_in_vain_is_tried_half_as_often(monkeypatch) -> None:
    waited = []

    def wait(scene: Scene) -> None:
        began = scene.now
        while not scene.wants_stop():
            scene.now += 1
        waited.append(scene.now - began)

    placement = Placement(num_workers=3, min_workers=1, grow_after_s=10, wait_for_nodes_s=1000)
    groups = [wait, is_refused, wait, wait, to_the_end]
    play(Scene(placement, groups, rooms=[1, 2, 1, 1, 3]), monkeypatch)
    assert waited == [10, 20, 40]


def test_the_last_step_may_be_done_by_a_group_that_failed_after_it(monkeypatch) -> None:
    scene = Scene(Placement(max_failures=0), [fails(after=SCHEDULE.num_batches)])
    play(scene, monkeypatch)
    assert scene.starts == [(0, 2)]


@pytest.mark.parametrize(("cpus", "starved"), [(3.0, False), (2.0, True)])
def test_a_group_that_holds_every_cpu_is_starved(monkeypatch, cpus: float, starved: bool) -> None:
    def lose_a_node(scene: Scene) -> None:
        scene.cpus = cpus
        assert scene.is_starved() == starved
        to_the_end(scene)

    play(Scene(Placement(num_workers=2), [lose_a_node]), monkeypatch)
