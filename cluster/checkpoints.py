"""Checkpoints of a training run on any storage: complete or invisible.

A checkpoint is a folder ``batch-N`` (``N`` = the next batch of the stream). Every worker puts its files there; when all
have, the marker is written. A checkpoint counts only with its marker, and only while every file the marker lists has
the size the marker tells; anything else is left over from a kill and is passed over.
"""

import dataclasses
import json
import logging
import os
from pathlib import Path
from typing import Any

import fsspec

logger = logging.getLogger(__name__)

MARKER = "COMPLETE.json"
_PREFIX = "batch-"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Marker:
    """What makes a checkpoint complete, and what a resumed run must know before it reads the rest."""

    batch: int
    """The next batch of the stream."""
    num_workers: int
    zero_stage: int
    files: dict[str, int]
    """Sizes in bytes by file name relative to the checkpoint's folder."""
    best_val_r1: float
    """Best validation R@1 so far; −1 before the first validation."""


class CheckpointStore:
    """The checkpoints under one folder or URL."""

    def __init__(self, url: str):
        self.fs, self.root = fsspec.core.url_to_fs(url)

    def folder(self, batch: int) -> str:
        return f"{self.root}/{_PREFIX}{batch:09d}"

    def begin(self, batch: int) -> None:
        """Make a left-over checkpoint of the same batch incomplete before its files are replaced."""
        if self.fs.exists(f"{self.folder(batch)}/{MARKER}"):
            self.fs.rm_file(f"{self.folder(batch)}/{MARKER}")

    def upload(self, batch: int, local: Path) -> dict[str, int]:
        """Put every file under ``local`` into the checkpoint; returns their sizes by relative name."""
        sizes = {}
        for path in sorted(p for p in local.rglob("*") if p.is_file()):
            name = path.relative_to(local).as_posix()
            target = f"{self.folder(batch)}/{name}"
            self.fs.makedirs(os.path.dirname(target), exist_ok=True)
            self.fs.put_file(str(path), target)
            sizes[name] = path.stat().st_size
        return sizes

    def commit(self, marker: Marker) -> None:
        """Make the checkpoint complete."""
        with self.fs.open(f"{self.folder(marker.batch)}/{MARKER}", "w") as file:
            json.dump(dataclasses.asdict(marker), file)

    def newest_complete(self) -> Marker | None:
        """The newest checkpoint all of whose files are there; a damaged one is passed over with a warning."""
        for batch in sorted(self._batches(), reverse=True):
            marker = self._read_marker(batch)
            if marker is None:
                continue
            damaged = [name for name, size in marker.files.items() if self._size(batch, name) != size]
            if not damaged:
                return marker
            logger.warning("checkpoint %s is damaged (%s), trying the one before", self.folder(batch), damaged[0])
        return None

    def at(self, batch: int) -> Marker:
        """The complete checkpoint whose next batch is ``batch``."""
        marker = self._read_marker(batch)
        assert marker, f"the stream starts at batch {batch}, but there is no complete checkpoint of it"
        return marker

    def download(self, marker: Marker, local: Path) -> None:
        """Fetch the files of a complete checkpoint into ``local``."""
        for name in marker.files:
            target = local / name
            target.parent.mkdir(parents=True, exist_ok=True)
            self.fs.get_file(f"{self.folder(marker.batch)}/{name}", str(target))

    def prune(self, *, keep: int) -> None:
        """Remove all but the newest ``keep`` complete checkpoints, and what lies before them; markers go first."""
        complete = [batch for batch in sorted(self._batches(), reverse=True) if self._read_marker(batch)]
        for batch in self._batches():
            if len(complete) >= keep and batch < complete[keep - 1]:
                self.begin(batch)
                self.fs.rm(self.folder(batch), recursive=True)

    def _batches(self) -> list[int]:
        self.fs.invalidate_cache()
        if not self.fs.exists(self.root):
            return []
        names = [entry.rstrip("/").rsplit("/", 1)[-1] for entry in self.fs.ls(self.root, detail=False)]
        return [int(name.removeprefix(_PREFIX)) for name in names if name.startswith(_PREFIX)]

    def _read_marker(self, batch: int) -> Marker | None:
        try:
            fields: dict[str, Any] = json.loads(self.fs.cat_file(f"{self.folder(batch)}/{MARKER}"))
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return Marker(**fields)

    def _size(self, batch: int, name: str) -> int:
        try:
            return self.fs.size(f"{self.folder(batch)}/{name}")
        except FileNotFoundError:
            return -1
