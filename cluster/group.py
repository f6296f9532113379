"""One worker group: from its start to its end, its failure, or the wish that it stop."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from typing import Any

import fsspec
import pyarrow.fs
import ray
import ray.exceptions
import ray.train
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, TrainingFailedError, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.queue import Empty, Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.checkpoints import Checkpoint
from cluster.pulse import hanging, open_board, pulse
from cluster.reports import GroupReport, join_reports
from cluster.task import TrainTask

logger = logging.getLogger(__name__)

# Ray leaves the GPUs of a machine visible to workers that reserved none.
WITHOUT_GPU = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
WATCH_S = 1.0
HANDLE_S = 900.0
"""How long the reports of a group that has ended may take to be handled: storage has its patience, and pictures are
drawn."""

OnReport = Callable[[GroupReport], None]


class _ForwardReports(UserCallback):
    """Runs in Ray Train's controller: passes what the workers report on to the driver."""

    def __init__(self, queue: Queue):
        self.queue = queue

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        for parts in zip(*(told["points"] for told in metrics), strict=True):
            self.queue.put(join_reports(parts))


def _train_worker(config: dict[str, Any]) -> None:
    # Ray Train's note about every report goes to the root logger, past the level that its own setting asks for.
    logging.getLogger().setLevel(logging.WARNING)
    rank = ray.train.get_context().get_world_rank()
    with pulse(config["board"], rank) as beating:
        # DeepSpeed takes seconds to import, and only the workers need it.
        from cluster.worker import TrainWorker

        TrainWorker(config["task"], beating).run(config["shares"][rank], config["checkpoint"])


def run_group(
    task: TrainTask,
    shares: Sequence[Iterable[dict[str, Any]]],
    checkpoint: Checkpoint | None,
    *,
    use_gpu: bool,
    on_report: OnReport,
    should_stop: Callable[[], bool],
    is_outgrown: Callable[[], bool],
    is_starved: Callable[[], bool],
) -> None:
    """Train with one group from ``checkpoint`` on, a worker for each share, until the stream ends or ``should_stop``.

    A group that is asked to stop saves a checkpoint first, and so does one that ``is_outgrown``; one that is starved is
    ended. Both are asked once there are workers, which hold their resources. ``shares`` must start at the checkpoint.
    What else is raised meanwhile, such as an interrupt, ends the group, and nothing waits for its end.

    Raises:
        ray.train.TrainingFailedError: a worker failed, hung, or its node was lost.
        RuntimeError: ``on_report`` does not come to an end.
    """
    filesystem, root = fsspec.core.url_to_fs(task.run_url)
    with _relay(on_report) as queue, open_board() as board:
        trainer = TorchTrainer(
            _train_worker,
            train_loop_config={"task": task, "shares": shares, "checkpoint": checkpoint, "board": board},
            torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=len(shares),
                use_gpu=use_gpu,
                resources_per_worker=task.placement.worker_resources(use_gpu=use_gpu),
            ),
            run_config=RunConfig(
                name="ray_train",
                storage_path=root,
                storage_filesystem=pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem)),
                # The next group may need another size: every failure ends this one.
                failure_config=FailureConfig(max_failures=0, max_preemption_failures=0, controller_failure_limit=0),
                callbacks=[_ForwardReports(queue)],
                logging_config=LoggingConfig(log_level="CRITICAL"),
                worker_runtime_env={} if use_gpu else {"env_vars": WITHOUT_GPU},
            ),
        )
        watch = _Watch(
            board,
            hang_after_s=task.placement.hang_after_s,
            should_stop=should_stop,
            is_outgrown=is_outgrown,
            is_starved=is_starved,
        )
        training = _in_thread(trainer.fit)
        try:
            while wait([training], timeout=WATCH_S).not_done:
                watch.look()
        except BaseException:
            watch.end_all()
            raise
        training.result()


def _in_thread(work: Callable[[], Any]) -> Future[Any]:
    """Start ``work`` in a thread that nobody has to wait for, and that leaves signals to this one: Ray would take an
    interrupt for itself."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="ray-train", daemon=True).start()
    return future


class _Watch:
    """What the driver does while a group works."""

    def __init__(
        self,
        board: Any,
        *,
        hang_after_s: float,
        should_stop: Callable[[], bool],
        is_outgrown: Callable[[], bool],
        is_starved: Callable[[], bool],
    ):
        self._board, self._hang_after_s = board, hang_after_s
        self._should_stop, self._is_outgrown, self._is_starved = should_stop, is_outgrown, is_starved
        self._asked: Any = None
        self._beats: dict[int, Any] = {}
        self._ended: set[int] = set()

    def look(self) -> None:
        """Pass on the wish to stop, and end workers that hang or starve: the group fails, and Ray cleans up."""
        beats: Any = ray.get(self._board.read.remote())
        self._beats = beats
        if self._asked is None and (self._should_stop() or (beats and self._is_outgrown())):
            self._asked = self._board.ask_to_stop.remote()
        for rank, story in hanging(beats, bound_s=self._hang_after_s).items():
            if rank not in self._ended:
                logger.warning("%s: ending it, to start again from the newest checkpoint", story)
                self._end(rank)
        if beats.keys() - self._ended and self._is_starved():
            logger.warning(
                "the workers hold every CPU of the cluster, so that nothing can be decoded: ending them, to start "
                "again with the room there is"
            )
            self.end_all()

    def end_all(self) -> None:
        """End all workers that were heard of."""
        for rank in self._beats.keys() - self._ended:
            self._end(rank)

    def _end(self, rank: int) -> None:
        self._ended.add(rank)
        ray.kill(self._beats[rank][1].actor)


@contextlib.contextmanager
def _relay(on_report: OnReport) -> Iterator[Queue]:
    """A queue whose items reach ``on_report`` in a thread of the driver, all of them before the context ends.

    Whatever but the group's failure leaves the context, such as an interrupt, does not wait for them.

    Raises:
        RuntimeError: ``on_report`` does not come to an end. It must not be called meanwhile.
    """
    # On the driver's node: a queue on a node that may be taken away would take the reports with it.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    actor: Any = queue.actor
    done, abandoned = threading.Event(), threading.Event()

    def forward() -> None:
        while not abandoned.is_set():
            finishing = done.is_set()
            try:
                report = queue.get(timeout=0.5)
            except Empty:
                if finishing:
                    return
                continue
            except ray.exceptions.RayError as error:
                if not abandoned.is_set():
                    logger.warning("the queue of reports is lost: %s", error)
                return
            try:
                on_report(report)
            except Exception:
                # The thread must outlive a store that does not answer: later reports carry what this one did.
                logger.exception("a report was not handled")

    thread = threading.Thread(target=forward, name="reports", daemon=True)
    thread.start()
    patience_s = 0.0
    try:
        yield queue
        patience_s = HANDLE_S
    except TrainingFailedError:
        patience_s = HANDLE_S
        raise
    finally:
        done.set()
        thread.join(patience_s)
        abandoned.set()
        # Its shutdown would wait for it, and break the object that the thread may still read from.
        ray.kill(actor)
        if patience_s and thread.is_alive():
            raise RuntimeError(
                f"the reports of the workers were not handled within {patience_s:g} s; see whether the run's storage "
                "and the tracking answer, and start the same command again"
            )
