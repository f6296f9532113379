"""Write the shards of many tasks: in this process, or on a Ray cluster with one Ray task for each shard."""

from collections.abc import Iterator, Sequence

import ray

from pipelines.shard_set import Receipt, ShardTask, write_shard

SMALL_BYTES = 1 << 30
"""Less than this is read sooner than a Ray cluster has started."""


def fits_here(tasks: Sequence[ShardTask], num_workers: int, *, is_heavy: bool) -> bool:
    """Whether to write the shards in this process.

    ``num_workers`` = 0 leaves the choice: yes for one shard, or for a little to copy. ``is_heavy``: videos are decoded,
    so that far less is worth a cluster.
    """
    if num_workers:
        return num_workers == 1
    return len(tasks) == 1 or sum(task.num_bytes for task in tasks) < (SMALL_BYTES // 64 if is_heavy else SMALL_BYTES)


def write_here(tasks: Sequence[ShardTask]) -> Iterator[Receipt]:
    """One shard after the other."""
    for task in tasks:
        yield write_shard(task)


def write_on_ray(tasks: Sequence[ShardTask], *, num_workers: int = 0) -> Iterator[Receipt]:
    """Up to ``num_workers`` shards at once (0: as many as the cluster has CPUs, or grows to), as they are done.

    Ray must be connected. A task whose process dies is tried again by Ray a few times.
    """
    write = ray.remote(num_cpus=1)(write_shard)
    waiting, running = list(reversed(tasks)), []
    while waiting or running:
        while waiting and len(running) < (num_workers or len(tasks)):
            running.append(write.remote(waiting.pop()))
        done, running = ray.wait(running, num_returns=1)
        yield from ray.get(done)
