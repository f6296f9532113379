"""Connecting to Ray."""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import ray
from ray.autoscaler.sdk import request_resources

from cluster.placement import Placement

MIN_LOGICAL_CPUS = 6


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


def wait_for_room(placement: Placement, *, use_gpu: bool, enough: int, wait_s: float) -> int:
    """How many training workers there is room for, as soon as that is ``enough``, or else after ``wait_s`` seconds.

    Raises:
        ValueError: there is room for fewer than the placement's least number.
    """

    def room() -> int:
        return placement.room(node_resources(), use_gpu=use_gpu)

    bundles = placement.bundles(use_gpu=use_gpu)
    _wait_for_nodes(lambda: room() >= enough, bundles, wait_s=wait_s)
    if (found := room()) < placement.fewest_workers:
        raise _too_small(bundles, purpose=f"training with {placement.num_workers} workers")
    return found


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
    deadline = time.monotonic() + wait_s
    if ready():
        return True
    if wait_s:
        request_resources(bundles=[dict(bundle) for bundle in bundles])
    try:
        while time.monotonic() < deadline:
            time.sleep(1)
            if ready():
                return True
        return False
    finally:
        if wait_s:
            # A request holds until the next one: without this the nodes would stay up after the job.
            request_resources(bundles=[])


def _sum(bundles: Sequence[Mapping[str, float]], kind: str) -> float:
    return sum(bundle.get(kind, 0) for bundle in bundles)


def _too_small(bundles: Sequence[Mapping[str, float]], *, purpose: str) -> ValueError:
    have = ray.cluster_resources()
    return ValueError(
        f"{purpose} wants {_sum(bundles, 'CPU'):g} CPUs and {_sum(bundles, 'GPU'):g} GPUs, the Ray cluster has "
        f"{have.get('CPU', 0):g} and {have.get('GPU', 0):g}; add nodes, give an autoscaling cluster time with "
        "--placement.wait-for-nodes-s (train) or --wait-for-nodes-s (embed_corpus), or ask for fewer or smaller workers"
    )
