"""Connecting to Ray."""

import logging
import os
import time
from collections.abc import Mapping, Sequence

import ray
from ray.autoscaler.sdk import request_resources

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


def require_resources(bundles: Sequence[Mapping[str, float]], *, purpose: str, wait_s: float = 0) -> None:
    """Refuse a placement that the cluster could never serve, instead of waiting for ever.

    ``bundles`` are what is needed at the same time, each on one node. With ``wait_s`` an autoscaling cluster is first
    asked to grow, and given that many seconds to do so.

    Raises:
        ValueError: the cluster has fewer CPUs or GPUs.
    """
    want_cpus, want_gpus = (sum(bundle.get(kind, 0) for bundle in bundles) for kind in ("CPU", "GPU"))
    deadline = time.monotonic() + wait_s
    if wait_s:
        request_resources(bundles=[dict(bundle) for bundle in bundles])
    try:
        while True:
            have = ray.cluster_resources()
            have_cpus, have_gpus = have.get("CPU", 0), have.get("GPU", 0)
            if have_cpus >= want_cpus and have_gpus >= want_gpus:
                return
            if time.monotonic() >= deadline:
                break
            time.sleep(1)
    finally:
        if wait_s:
            # A request holds until the next one: without this the nodes would stay up after the job.
            request_resources(bundles=[])
    raise ValueError(
        f"{purpose} wants {want_cpus:g} CPUs and {want_gpus:g} GPUs, the Ray cluster has {have_cpus:g} and "
        f"{have_gpus:g}; add nodes, give an autoscaling cluster time with --placement.wait-for-nodes-s (train) or "
        "--wait-for-nodes-s (embed_corpus), or ask for fewer or smaller workers"
    )
