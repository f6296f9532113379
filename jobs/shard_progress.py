"""Write what shard sets lack, here or on the Ray cluster, and show how far it is."""

from collections.abc import Sequence

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from cluster.session import connect
from pipelines.shard_pool import fits_here, write_here, write_on_ray
from pipelines.shard_set import ShardTask, find_receipts


def write_missing(sets: Sequence[Sequence[ShardTask]], *, num_workers: int, is_heavy: bool) -> None:
    """Write the shards that are not there yet, of all sets together, under a bar of bytes read.

    ``num_workers`` = 0 chooses by the amount of work, 1 is this process; ``is_heavy``: videos are decoded for it.
    """
    missing: list[ShardTask] = []
    for tasks in sets:
        known = find_receipts(tasks)
        missing += [task for task in tasks if task.name not in known]
    if not missing:
        return
    if fits_here(missing, num_workers, is_heavy=is_heavy):
        receipts = write_here(missing)
    else:
        connect()
        receipts = write_on_ray(missing, num_workers=num_workers)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TimeRemainingColumn())
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task("shards", total=sum(task.num_bytes for task in missing))
        sizes = {(task.inputs, task.name): task.num_bytes for task in missing}
        for receipt in receipts:
            bar.advance(task, sizes[receipt.inputs, receipt.name])
