"""Saving checkpoints beside the training: the state goes to the local disk at once, and to storage in a thread."""

import logging
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import deepspeed
import torch.distributed as dist

from cluster.checkpoints import CheckpointStore
from cluster.reports import WorkerReport, write_reports
from cluster.state import save_state

logger = logging.getLogger(__name__)


class Saver:
    """One worker's part in saving. A checkpoint that fails is told and left out: the training goes on."""

    def __init__(self, store: CheckpointStore, *, keep: int):
        self._store, self._keep = store, keep
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._under_way: Future[bool] | None = None

    def save(
        self, engine: deepspeed.DeepSpeedEngine, *, batch: int, best_val_r1: float, reports: Sequence[WorkerReport]
    ) -> None:
        """Save the state before ``batch`` and what was told of the way there. It waits for the checkpoint before.

        Every worker must call it.
        """
        self.wait()
        names = [self._store.new_folder(batch)]
        dist.broadcast_object_list(names)
        local = Path(tempfile.mkdtemp(prefix="fpig-checkpoint-"))
        try:
            save_state(engine, local)
            write_reports(local, reports, rank=dist.get_rank())
        except OSError as error:
            shutil.rmtree(local, ignore_errors=True)
            self._tell(batch, error)
            self._under_way = Future()
            self._under_way.set_result(False)
            return
        self._under_way = self._thread.submit(self._send, names[0], local, batch, best_val_r1)

    def wait(self) -> bool:
        """Wait for this worker's part of the newest checkpoint -> whether it is on storage."""
        return self._under_way is None or self._under_way.result()

    def _send(self, folder: str, local: Path, batch: int, best_val_r1: float) -> bool:
        rank, num_workers = dist.get_rank(), dist.get_world_size()
        try:
            self._store.put(folder, local, rank=rank, num_workers=num_workers, batch=batch, best_val_r1=best_val_r1)
            if rank == 0:
                self._store.prune(keep=self._keep)
        except Exception as error:  # what a store raises is of many kinds, and none is worth the training
            self._tell(batch, error)
            return False
        finally:
            shutil.rmtree(local, ignore_errors=True)
        return True

    def _tell(self, batch: int, error: Exception) -> None:
        logger.warning(
            "the checkpoint before batch %d was not saved under %s (%s: %s); an earlier one counts, training goes on",
            batch,
            self._store.root,
            type(error).__name__,
            error,
        )
