"""Running a training task on Ray Train: start, restart after failures, reports to the driver."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import fsspec
import pyarrow.fs
import ray
import ray.data
from ray.train import DataConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.queue import Empty, Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.placement import Placement
from cluster.session import require_resources
from cluster.task import BLOCKS, TrainTask

logger = logging.getLogger(__name__)

# Ray leaves the GPUs of a machine visible to workers that reserved none.
WITHOUT_GPU = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}

MakeStream = Callable[[int, int], ray.data.Dataset]
"""(first batch, number of workers) -> the blocks of all batches from there on, one a worker in every batch."""

OnReport = Callable[[int, dict[str, float], list[dict[str, str]]], None]
"""Called on the driver with step, metrics, and the samples rejected since the last call."""


class _OneStream(DataConfig):
    """Splits one stream over the workers of a group: it is made for their number, from the newest checkpoint on."""

    def __init__(self, task: TrainTask, make_stream: MakeStream):
        in_order = ray.data.ExecutionOptions(preserve_order=True)
        super().__init__(execution_options=in_order, enable_shard_locality=False)
        self._task, self._make_stream = task, make_stream

    def configure(self, datasets: Any, world_size: int, *args: Any, **options: Any) -> Any:
        newest = self._task.checkpoints.newest_complete()
        stream = self._make_stream(newest.batch if newest else 0, world_size)
        return super().configure({BLOCKS: stream}, world_size, *args, **options)


class _ForwardReports(UserCallback):
    """Runs in Ray Train's controller: passes what the workers report on to the driver."""

    def __init__(self, queue: Queue):
        self.queue = queue

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        rejected = [sample for worker in metrics for sample in worker["rejected"]]
        self.queue.put((metrics[0]["step"], metrics[0]["metrics"], rejected))

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for rank, error in sorted(worker_exceptions.items()):
            first_line = str(error).strip().splitlines()[-1:] or [type(error).__name__]
            logger.warning("worker %d failed: %s", rank, first_line[0])


def _train_worker(config: dict[str, TrainTask]) -> None:
    # Ray Train's note about every report goes to the root logger, past the level that its own setting asks for.
    logging.getLogger().setLevel(logging.WARNING)
    # DeepSpeed takes seconds to import, and only the workers need it.
    from cluster.worker import TrainWorker

    TrainWorker(config["task"]).run()


def uses_gpus(placement: Placement) -> bool:
    """Whether the workers compute on GPUs: asked for, or ``auto`` and the cluster has one for each."""
    if placement.device == "auto":
        return ray.cluster_resources().get("GPU", 0) >= placement.num_workers
    return placement.device == "cuda"


def run_training(task: TrainTask, make_stream: MakeStream, *, on_report: OnReport) -> None:
    """Train until the schedule is done.

    ``make_stream`` is called again whenever the worker group starts again, with the batch of the newest complete
    checkpoint at that moment, and with the number of workers that the cluster has room for.

    Raises:
        ValueError: the cluster cannot serve the placement.
        ray.train.TrainingFailedError: the workers failed more often than the placement allows.
    """
    placement = task.placement
    use_gpu = uses_gpus(placement)
    worker = {"CPU": placement.cpus_per_worker, **({"GPU": 1} if use_gpu else {})}
    require_resources(
        [worker] * placement.num_workers + [{"CPU": 1}] * placement.decode_cpus,
        purpose=f"training with {placement.num_workers} workers",
        wait_s=placement.wait_for_nodes_s,
    )

    filesystem, root = fsspec.core.url_to_fs(task.run_url)
    with _relay(on_report) as queue:
        TorchTrainer(
            _train_worker,
            train_loop_config={"task": task},
            torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=placement.num_workers,
                use_gpu=use_gpu,
                resources_per_worker=worker,
            ),
            run_config=RunConfig(
                name="ray_train",
                storage_path=root,
                storage_filesystem=pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem)),
                failure_config=FailureConfig(max_failures=placement.max_failures),
                callbacks=[_ForwardReports(queue)],
                logging_config=LoggingConfig(log_level="WARNING"),
                worker_runtime_env={} if use_gpu else {"env_vars": WITHOUT_GPU},
            ),
            # What the workers read is made by the configuration, when their number is known.
            datasets={BLOCKS: lambda: None},  # pyright: ignore[reportArgumentType]
            dataset_config=_OneStream(task, make_stream),
        ).fit()


@contextlib.contextmanager
def _relay(on_report: OnReport) -> Iterator[Queue]:
    """A queue whose items reach ``on_report`` in a thread of the driver, all of them before the context ends."""
    # On the driver's node: a queue on a node that may be taken away would take the reports with it.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    done = threading.Event()

    def forward() -> None:
        while True:
            finishing = done.is_set()
            try:
                on_report(*queue.get(timeout=0.5))
            except Empty:
                if finishing:
                    return
            except Exception:
                # The thread must outlive a store that does not answer: later reports carry what this one did.
                logger.exception("a report was not handled")

    thread = threading.Thread(target=forward, name="reports", daemon=True)
    thread.start()
    try:
        yield queue
    finally:
        done.set()
        thread.join(timeout=30)
        queue.shutdown()
