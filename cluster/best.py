"""The model bundle with the best validation result of a run so far."""

import contextlib
import json
import logging
import tempfile
import uuid
from pathlib import Path
from typing import Any

import fsspec
import torch.distributed as dist

from fpig_core.bundle import save_bundle
from fpig_core.models import Model

_RECORD = "validation.json"

logger = logging.getLogger(__name__)


class BestBundle:
    """Bundles under one folder or URL; one counts while its record, written last and removed first, is there."""

    def __init__(self, url: str):
        self.fs, self.root = fsspec.core.url_to_fs(url)

    def save_from_one(self, model: Model, *, batch: int, validation: dict[str, float]) -> bool:
        """``save`` on the first worker -> whether it did; every worker must call it, and gets the same.

        A bundle that cannot be saved is told and left out: the training goes on.
        """
        saved = [False]
        if dist.get_rank() == 0:
            try:
                self.save(model, batch=batch, validation=validation)
                saved = [True]
            except Exception as error:  # what a store raises is of many kinds, and the others wait
                logger.warning(
                    "the best model so far, of batch %d, was not saved under %s (%s: %s); training goes on",
                    batch,
                    self.root,
                    type(error).__name__,
                    error,
                )
        dist.broadcast_object_list(saved)
        return saved[0]

    def save(self, model: Model, *, batch: int, validation: dict[str, float]) -> None:
        """Upload ``model`` with what validation said of it, then remove the bundles it beats."""
        # The token keeps two attempts at one batch apart.
        folder = f"{self.root}/batch-{batch:09d}-{uuid.uuid4().hex[:8]}"
        with tempfile.TemporaryDirectory() as local:
            bundle = Path(local) / "bundle"
            model_id = save_bundle(bundle, model)
            self.fs.makedirs(folder, exist_ok=True)
            for path in bundle.iterdir():
                self.fs.put_file(str(path), f"{folder}/{path.name}")
        record = {"model_id": model_id, "batch": batch, "validation": validation}
        self.fs.pipe_file(f"{folder}/{_RECORD}", json.dumps(record).encode())
        try:
            self._remove_all_but(folder)
        except Exception as error:
            logger.warning("bundles beside %s were not removed (%s: %s)", folder, type(error).__name__, error)

    def fetch(self, local: Path) -> dict[str, Any]:
        """Copy the best bundle into ``local``; returns its record: ``model_id, batch, validation``."""
        records = {folder: record for folder in self._folders() if (record := self._record(folder))}
        if not records:
            raise RuntimeError(
                f"no complete bundle under {self.root}: there was no validation yet, or its model was not saved, which "
                "the log tells; python -m jobs.export makes a bundle of a checkpoint"
            )
        best = max(records, key=lambda folder: (records[folder]["validation"]["t2v_r1"], records[folder]["batch"]))
        local.mkdir(parents=True, exist_ok=True)
        for path in self.fs.ls(best, detail=False):
            name = path.rsplit("/", 1)[-1]
            if name != _RECORD:
                self.fs.get_file(path, str(local / name))
        return records[best]

    def _remove_all_but(self, kept: str) -> None:
        for folder in self._folders():
            if folder.rsplit("/", 1)[-1] != kept.rsplit("/", 1)[-1]:
                with contextlib.suppress(FileNotFoundError):
                    self.fs.rm_file(f"{folder}/{_RECORD}")
                self.fs.rm(folder, recursive=True)

    def _record(self, folder: str) -> dict[str, Any] | None:
        """What belongs to a bundle, if it is complete."""
        try:
            return json.loads(self.fs.cat_file(f"{folder}/{_RECORD}"))
        except (FileNotFoundError, json.JSONDecodeError):
            return None

    def _folders(self) -> list[str]:
        self.fs.invalidate_cache()
        if not self.fs.exists(self.root):
            return []
        return [path.rstrip("/") for path in self.fs.ls(self.root, detail=False)]
