"""The load of a worker's node, under the names of MLflow's system metrics."""

import psutil
import torch


def node_load(node: str, *, local_rank: int, device: torch.device) -> dict[str, float]:
    """What is in use of the node's CPUs (since the last call) and memory, told by one of its workers; of the own GPU.

    The names are ``system/NODE/…``: what MLflow shows as system metrics, a node apart.
    """
    load = {}
    if local_rank == 0:
        load["cpu_utilization_percentage"] = psutil.cpu_percent()
        load["system_memory_usage_percentage"] = psutil.virtual_memory().percent
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        load[f"gpu_{local_rank}_memory_usage_percentage"] = 100 * (1 - free / total)
    return {f"system/{node}/{name}": value for name, value in load.items()}
