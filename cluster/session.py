"""Connecting to Ray."""

import contextlib
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ray
from ray._private.state import available_resources_per_node, state
from ray.autoscaler.sdk import request_resources
from ray.core.generated import gcs_pb2
from ray.util import placement_group_table

from cluster.placement import Placement

MIN_LOGICAL_CPUS = 6

SETTLE_S = 30.0
"""How long what others hold is waited for, at least: what has just ended, or was lost with its node, gives back its
CPUs and GPUs some moments later."""


def connect(*, dashboard: bool = False) -> None:
    """Join the cluster of ``RAY_ADDRESS`` (set by ``ray job submit``), or start a private one on this machine.

    A private cluster gets at least ``MIN_LOGICAL_CPUS`` logical CPUs: decoding, training workers and model actors
    each reserve some, and on a small machine they share the cores instead of waiting for each other for ever. Ray Train
    asks the ``dashboard`` which runs are alive.
    """
    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(logging_level=logging.WARNING)
    else:
        num_cpus = max(os.cpu_count() or 1, MIN_LOGICAL_CPUS)
        ray.init("local", num_cpus=num_cpus, include_dashboard=dashboard, logging_level=logging.WARNING)


def node_resources() -> list[dict[str, float]]:
    """What each living node of the cluster has in all."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def free_resources() -> list[dict[str, float]]:
    """What nobody holds of each node that takes new work."""
    free = available_resources_per_node()
    return [free.get(name, {}) for name in _open_nodes()]


def spare_resources() -> list[dict[str, float]]:
    """What more each node that takes new work could hold: GPUs that nobody has, CPUs that none is reserved for.

    A task does not reserve the CPU that it has: those of the own stream take every free one, and all give it back
    within seconds.
    """
    free, reserved = available_resources_per_node(), _reserved_cpus()
    return [
        {"CPU": resources.get("CPU", 0) - reserved[name], "GPU": free.get(name, {}).get("GPU", 0)}
        for name, resources in _open_nodes().items()
    ]


def _open_nodes() -> dict[str, dict[str, float]]:
    """What each node has in all, by its id, without those that will be taken away: nothing new is placed there."""
    leaving = state.get_draining_nodes()
    return {
        node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"] and node["NodeID"] not in leaving
    }


def _reserved_cpus() -> Counter[str]:
    """CPUs by node id that placement groups and actors hold, of whatever job."""
    reserved: Counter[str] = Counter()
    messages: Any = gcs_pb2
    for group in placement_group_table().values():
        if group["state"] != "REMOVED":
            for index, name in group["bundles_to_node_id"].items():
                reserved[name] += group["bundles"][index].get("CPU", 0)
    # Ray's public list of actors comes from the dashboard, which may be away, or answer on another node alone.
    for row in state._connect_and_get_accessor().get_actor_table(None, "ALIVE"):
        actor = messages.ActorTableData.FromString(row)
        # What an actor has of its group goes by another name.
        reserved[actor.address.node_id.hex()] += actor.required_resources.get("CPU", 0)
    return reserved


@contextlib.contextmanager
def asking_for_nodes(placement: Placement, *, use_gpu: bool) -> Iterator[None]:
    """Ask an autoscaling cluster for room for all workers of an elastic placement, as long as the context lasts."""
    if placement.min_workers:
        request_resources(bundles=placement.bundles(use_gpu=use_gpu))
    try:
        yield
    finally:
        if placement.min_workers:
            request_resources(bundles=[])


def wait_for_room(
    placement: Placement, *, use_gpu: bool, enough: int, wait_s: float, should_stop: Callable[[], bool]
) -> int:
    """How many training workers there is free room for, as soon as that is ``enough``, or after ``wait_s`` seconds.

    Nothing of the training may be at work. What others hold is waited for a little in any case; whoever wants to stop
    waits no longer, and gets any number.

    Raises:
        ValueError: there is free room for fewer than the placement's least number.
    """

    def room() -> int:
        return placement.room(free_resources(), use_gpu=use_gpu)

    def is_settled() -> bool:
        return should_stop() or room() >= placement.room(_open_nodes().values(), use_gpu=use_gpu)

    _wait_until(is_settled, wait_s=SETTLE_S)
    bundles = placement.bundles(use_gpu=use_gpu)
    # An autoscaling cluster goes by what its nodes have in all.
    _wait_for_nodes(lambda: should_stop() or room() >= enough, [*bundles, *_held()], wait_s=wait_s)
    if (found := room()) < placement.fewest_workers and not should_stop():
        raise _too_small(bundles, purpose=f"training with {placement.num_workers} workers")
    return found


def _held() -> list[dict[str, float]]:
    """What is in use, node by node."""
    free = available_resources_per_node()
    held = (
        {kind: node.get(kind, 0) - free.get(name, {}).get(kind, 0) for kind in ("CPU", "GPU")}
        for name, node in _open_nodes().items()
    )
    return [used for node in held if (used := {kind: amount for kind, amount in node.items() if amount > 0})]


def require_resources(bundles: Sequence[Mapping[str, float]], *, purpose: str, wait_s: float = 0) -> None:
    """Refuse a job that the cluster could never serve, instead of waiting for ever.

    ``bundles`` are what is needed at the same time, each on one node. With ``wait_s`` an autoscaling cluster is first
    asked to grow, and given that many seconds to do so.

    Raises:
        ValueError: the cluster has fewer CPUs or GPUs.
    """

    def is_large_enough() -> bool:
        have = ray.cluster_resources()
        return all(have.get(kind, 0) >= _sum(bundles, kind) for kind in ("CPU", "GPU"))

    if not _wait_for_nodes(is_large_enough, bundles, wait_s=wait_s):
        raise _too_small(bundles, purpose=purpose)


def _wait_for_nodes(ready: Callable[[], bool], bundles: Sequence[Mapping[str, float]], *, wait_s: float) -> bool:
    """Wait until ``ready``, with an autoscaling cluster asked to grow by ``bundles`` -> whether it came to that."""
    if ready():
        return True
    if wait_s <= 0:
        return False
    request_resources(bundles=[dict(bundle) for bundle in bundles])
    try:
        return _wait_until(ready, wait_s=wait_s)
    finally:
        # A request holds until the next one: without this the nodes would stay up after the job.
        request_resources(bundles=[])


def _wait_until(ready: Callable[[], bool], *, wait_s: float) -> bool:
    """Wait until ``ready``, for ``wait_s`` seconds at most -> whether it came to that."""
    deadline = time.monotonic() + wait_s
    while not ready():
        if time.monotonic() >= deadline:
            return False
        time.sleep(1)
    return True


def _sum(bundles: Sequence[Mapping[str, float]], kind: str) -> float:
    return sum(bundle.get(kind, 0) for bundle in bundles)


def _too_small(bundles: Sequence[Mapping[str, float]], *, purpose: str) -> ValueError:
    have, free = ray.cluster_resources(), ray.available_resources()
    return ValueError(
        f"{purpose} wants {_sum(bundles, 'CPU'):g} CPUs and {_sum(bundles, 'GPU'):g} GPUs, the Ray cluster has "
        f"{have.get('CPU', 0):g} and {have.get('GPU', 0):g}, of which {free.get('CPU', 0):g} and "
        f"{free.get('GPU', 0):g} are free; add nodes, wait for other jobs, give an autoscaling cluster time with "
        "--placement.wait-for-nodes-s (train) or --wait-for-nodes-s (embed_corpus), or ask for fewer or smaller workers"
    )
