"""Connecting to Ray."""

import os

import ray

MIN_LOGICAL_CPUS = 8


def connect() -> None:
    """Join the cluster of ``RAY_ADDRESS`` (set by ``ray job submit``), or start a private one on this machine.

    A private cluster gets at least ``MIN_LOGICAL_CPUS`` logical CPUs: decoding, training workers and model actors
    each reserve some, and on a small machine they share the cores instead of waiting for each other for ever.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=True, logging_level="warning")
    else:
        num_cpus = max(os.cpu_count() or 1, MIN_LOGICAL_CPUS)
        ray.init("local", num_cpus=num_cpus, include_dashboard=False, logging_level="warning")


def require_resources(*, cpus: float, gpus: float, purpose: str) -> None:
    """Refuse a placement that the cluster could never serve, instead of waiting for ever.

    Raises:
        ValueError: the cluster has fewer CPUs or GPUs.
    """
    have = ray.cluster_resources()
    have_cpus, have_gpus = have.get("CPU", 0), have.get("GPU", 0)
    if have_cpus < cpus or have_gpus < gpus:
        raise ValueError(
            f"{purpose} wants {cpus:g} CPUs and {gpus:g} GPUs, the Ray cluster has {have_cpus:g} and {have_gpus:g}; "
            "add nodes, or ask for fewer or smaller workers"
        )
