"""How much of a cluster is free, told from one whose CPUs others hold."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.util import placement_group, remove_placement_group

from cluster import session
from cluster.placement import Placement

LIMIT_S = 60


@ray.remote(num_cpus=2)
class Holder:
    def hold(self) -> None:
        """Be there."""


@ray.remote(num_cpus=1)
def work(seen: Path, go: Path) -> None:
    seen.touch()
    while not go.exists():
        time.sleep(0.05)


def cpus(nodes: list[dict[str, float]]) -> float:
    return sum(node.get("CPU", 0) for node in nodes)


def comes_true(condition: Callable[[], bool]) -> bool:
    """Ray counts some moments later what has been taken or given back."""
    return session._wait_until(condition, wait_s=LIMIT_S)


def find(placement: Placement, *, wait_s: float = 0, stopped: bool = False) -> int:
    return session.wait_for_room(
        placement, use_gpu=False, enough=placement.num_workers, wait_s=wait_s, should_stop=lambda: stopped
    )


@pytest.fixture
def idle(ray_local) -> float:
    """CPUs of a cluster that nobody uses."""
    every = cpus(session.node_resources())
    assert comes_true(lambda: cpus(session.free_resources()) == cpus(session.spare_resources()) == every)
    return every


def test_what_others_hold_is_no_room(idle: float, monkeypatch) -> None:
    monkeypatch.setattr(session, "SETTLE_S", 0)
    placement = Placement(num_workers=int(idle) - 2, min_workers=int(idle) - 3, decode_cpus=2)
    assert find(placement) == idle - 2
    holder: Any = Holder.remote()
    ray.get(holder.hold.remote())
    assert comes_true(lambda: cpus(session.free_resources()) == idle - 2)
    with pytest.raises(
        ValueError, match=rf"wants {idle:g} CPUs .*has {idle:g} and 0, of which {idle - 2:g} and 0 are free"
    ):
        find(placement)
    assert find(placement, stopped=True, wait_s=LIMIT_S) == idle - 4
    ray.kill(holder)
    monkeypatch.setattr(session, "SETTLE_S", LIMIT_S)
    assert find(placement) == idle - 2


def test_tasks_leave_room_to_grow_and_actors_and_groups_do_not(idle: float, tmp_path: Path) -> None:
    seen, go = tmp_path / "seen", tmp_path / "go"
    task = work.remote(seen, go)
    assert comes_true(seen.exists)
    assert comes_true(lambda: cpus(session.free_resources()) == idle - 1)
    assert cpus(session.spare_resources()) == idle
    holder: Any = Holder.remote()
    group = placement_group([{"CPU": 1}, {"CPU": 2}])
    ray.get([holder.hold.remote(), group.ready()])
    assert comes_true(lambda: cpus(session.spare_resources()) == idle - 5)
    go.touch()
    ray.get(task)
    ray.kill(holder)
    remove_placement_group(group)
    assert comes_true(lambda: cpus(session.spare_resources()) == idle)
