"""Checkpoints of a training run on any storage: complete or invisible.

A checkpoint is a folder ``batch-N-TOKEN``: ``N`` is the next batch of the stream, the token keeps two attempts apart.
Every worker puts its files there, and then a receipt with their sizes and digests. A checkpoint counts while the
receipts of all its workers are there and every file has the size that its receipt tells; anything else is left over
from a kill or still on its way, and is passed over. So no worker waits for another, and files travel while the training
goes on. Digests are compared by whoever reads the files, and a checkpoint that fails that is condemned for good.
"""

import dataclasses
import hashlib
import json
import logging
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import tenacity

logger = logging.getLogger(__name__)

_FOLDER = re.compile(r"batch-(\d+)-[0-9a-f]+")
_CONDEMNED = "damaged.json"
_RECEIPT = re.compile(r"worker-(\d+)-of-(\d+)\.json")
PATIENCE_S, MAX_PAUSE_S = 120.0, 10.0
"""How long a store that fails is asked for the newest checkpoint, and at most between two tries."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A complete checkpoint, and what a resumed run must know before it reads the rest."""

    folder: str
    batch: int
    """The next batch of the stream."""
    best_val_r1: float
    """Best validation R@1 so far; −1 before the first validation."""
    files: dict[str, tuple[int, str]]
    """Size in bytes and SHA-256 by file name."""


class DamagedError(RuntimeError):
    """A file of a checkpoint is not what its worker saved; the checkpoint is condemned."""


class CheckpointStore:
    """The checkpoints under one folder or URL."""

    def __init__(self, url: str):
        self.fs, self.root = fsspec.core.url_to_fs(url)

    def new_folder(self, batch: int) -> str:
        """The name of a checkpoint that nothing was put into yet; all workers must use the same."""
        return f"batch-{batch:09d}-{uuid.uuid4().hex[:8]}"

    def put(self, folder: str, local: Path, *, rank: int, num_workers: int, batch: int, best_val_r1: float) -> None:
        """Put the files of one worker, which lie in ``local``, and its receipt. The last one makes it complete."""
        target = f"{self.root}/{folder}"
        self.fs.makedirs(target, exist_ok=True)
        files = {path.name: (path.stat().st_size, _digest(path)) for path in local.iterdir()}
        for name in files:
            self.fs.put_file(str(local / name), f"{target}/{name}")
        receipt = {"batch": batch, "best_val_r1": best_val_r1, "files": files}
        self.fs.pipe_file(f"{target}/worker-{rank:05d}-of-{num_workers:05d}.json", json.dumps(receipt).encode())

    def complete(self) -> Iterator[Checkpoint]:
        """All complete checkpoints, the newest first; a damaged one is passed over with a warning."""
        for folder in self.folders():
            if checkpoint := self._read(folder):
                yield checkpoint

    def newest_complete(self) -> Checkpoint | None:
        """The newest complete checkpoint, asked for until the store answers or ``PATIENCE_S`` have passed.

        Raises:
            RuntimeError: the store did not answer.
        """
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_delay(PATIENCE_S),
            wait=tenacity.wait_random_exponential(multiplier=1, max=MAX_PAUSE_S),
            before_sleep=self._tell,
            reraise=True,
        )
        try:
            return retrying(lambda: next(self.complete(), None))
        except Exception as error:
            raise RuntimeError(
                f"got no answer about the checkpoints under {self.root} for {PATIENCE_S:.0f} s "
                f"({type(error).__name__}: {error}); check the store, the network and the credentials, then start the "
                "same command again"
            ) from error

    def download(self, checkpoint: Checkpoint, local: Path) -> None:
        """Fetch the files of a complete checkpoint into ``local``.

        Raises:
            DamagedError: a file has another digest than when it was saved; the checkpoint does not count any more.
        """
        folder = f"{self.root}/{checkpoint.folder}"
        for name, (_, digest) in checkpoint.files.items():
            self.fs.get_file(f"{folder}/{name}", str(local / name))
            if _digest(local / name) != digest:
                self.fs.pipe_file(f"{folder}/{_CONDEMNED}", json.dumps({"file": name}).encode())
                raise DamagedError(f"{folder}/{name} is damaged: its digest differs; the checkpoint before it will do")

    def read(self, checkpoint: Checkpoint, name: str) -> bytes:
        """One file of a checkpoint."""
        return self.fs.cat_file(f"{self.root}/{checkpoint.folder}/{name}")

    def prune(self, *, keep: int) -> None:
        """Remove all but the newest ``keep`` complete checkpoints, and what lies before them."""
        complete = [checkpoint.folder for checkpoint in self.complete()]
        if len(complete) >= keep:
            folders = self.folders()
            for folder in folders[folders.index(complete[keep - 1]) + 1 :]:
                self.fs.rm(f"{self.root}/{folder}", recursive=True)

    def folders(self) -> list[str]:
        """Names of all checkpoints, complete or not, the newest first."""
        self.fs.invalidate_cache()
        if not self.fs.exists(self.root):
            return []
        names = [entry.rstrip("/").rsplit("/", 1)[-1] for entry in self.fs.ls(self.root, detail=False)]
        return sorted(filter(_FOLDER.fullmatch, names), reverse=True)

    def _read(self, folder: str) -> Checkpoint | None:
        """The checkpoint in a folder, if it is complete and undamaged."""
        try:
            entries = self.fs.ls(f"{self.root}/{folder}", detail=True)
        except FileNotFoundError:
            return None  # another process has pruned it
        sizes = {entry["name"].rsplit("/", 1)[-1]: entry["size"] for entry in entries}
        receipts = [match for match in map(_RECEIPT.fullmatch, sorted(sizes)) if match]
        if not receipts or len(receipts) < int(receipts[0][2]):
            return None
        told = [self._receipt(f"{folder}/{match[0]}") for match in receipts]
        files = {name: tuple(kept) for receipt in told if receipt for name, kept in receipt["files"].items()}
        damaged = [match[0] for match, receipt in zip(receipts, told, strict=True) if not receipt]
        damaged += [name for name, (size, _) in files.items() if sizes.get(name) != size]
        damaged += [_CONDEMNED] if _CONDEMNED in sizes else []
        if damaged:
            logger.warning("checkpoint %s is damaged (%s), trying the one before", f"{self.root}/{folder}", damaged[0])
            return None
        first: Any = told[0]
        return Checkpoint(folder=folder, batch=first["batch"], best_val_r1=first["best_val_r1"], files=files)

    def _tell(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome and state.outcome.exception()
        logger.warning(
            "got no answer about the checkpoints under %s (%s: %s), trying again",
            self.root,
            type(error).__name__,
            error,
        )

    def _receipt(self, name: str) -> dict[str, Any] | None:
        try:
            return json.loads(self.fs.cat_file(f"{self.root}/{name}"))
        except json.JSONDecodeError:
            return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
