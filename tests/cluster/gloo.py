"""Running a function in several processes that form a gloo group."""

import os
import socket
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from multiprocessing import active_children, get_context
from typing import Any

import torch
import torch.distributed as dist

LIMIT_S = 1200
CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(["cluster.engine", "tests.methods"])  # imported once, not in each process


def run_workers(function: Callable[..., Any], num_workers: int, *args: Any) -> list[Any]:
    """``function(rank, num_workers, *args)`` in each of ``num_workers`` fresh processes -> results, rank by rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with ProcessPoolExecutor(num_workers, mp_context=CONTEXT) as pool:
        tasks = [pool.submit(_work, function, rank, num_workers, port, args) for rank in range(num_workers)]
        wait(tasks, timeout=LIMIT_S, return_when=FIRST_EXCEPTION)
        if failed := [task for task in tasks if task.done() and task.exception()]:
            # The others wait for the failed one.
            for process in active_children():
                process.kill()
            failed[0].result()
        return [task.result(timeout=0) for task in tasks]


def _work(function: Callable[..., Any], rank: int, num_workers: int, port: int, args: tuple[Any, ...]) -> Any:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_workers)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    try:
        return function(rank, num_workers, *args)
    finally:
        dist.destroy_process_group()
