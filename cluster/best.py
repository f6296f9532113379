"""The model bundle with the best validation result of a run so far."""

import json
import tempfile
from pathlib import Path
from typing import Any

import fsspec

from fpig_core.bundle import save_bundle
from fpig_core.models import Model

_RECORD = "validation.json"


class BestBundle:
    """Bundles under one folder or URL; one counts when its record, written last, is there."""

    def __init__(self, url: str):
        self.fs, self.root = fsspec.core.url_to_fs(url)

    def save(self, model: Model, *, batch: int, validation: dict[str, float]) -> None:
        """Upload ``model`` with what validation said of it, then remove the bundles it beats."""
        folder = f"{self.root}/batch-{batch:09d}"
        with tempfile.TemporaryDirectory() as local:
            bundle = Path(local) / "bundle"
            model_id = save_bundle(bundle, model)
            self.fs.makedirs(folder, exist_ok=True)
            for path in bundle.iterdir():
                self.fs.put_file(str(path), f"{folder}/{path.name}")
        with self.fs.open(f"{folder}/{_RECORD}", "w") as file:
            json.dump({"model_id": model_id, "batch": batch, "validation": validation}, file)
        for other in self._folders():
            if other.rsplit("/", 1)[-1] != folder.rsplit("/", 1)[-1]:
                self.fs.rm(other, recursive=True)

    def fetch(self, local: Path) -> dict[str, Any]:
        """Copy the best bundle into ``local``; returns its record: ``model_id, batch, validation``."""
        records = {}
        for folder in self._folders():
            if self.fs.exists(f"{folder}/{_RECORD}"):
                records[folder] = json.loads(self.fs.cat_file(f"{folder}/{_RECORD}"))
        if not records:
            raise RuntimeError(f"no complete bundle under {self.root}; the run ended before its first validation")
        best = max(records, key=lambda folder: (records[folder]["validation"]["t2v_r1"], records[folder]["batch"]))
        local.mkdir(parents=True, exist_ok=True)
        for path in self.fs.ls(best, detail=False):
            name = path.rsplit("/", 1)[-1]
            if name != _RECORD:
                self.fs.get_file(path, str(local / name))
        return records[best]

    def _folders(self) -> list[str]:
        self.fs.invalidate_cache()
        if not self.fs.exists(self.root):
            return []
        return [path.rstrip("/") for path in self.fs.ls(self.root, detail=False)]
