"""An index of a corpus as a folder, and how it is opened: by memory map, so that its size does not count.

``VERSION/vectors.npy`` (as the corpus stores them), ``VERSION/first.faiss`` (unless every vector is compared),
``VERSION/rows.arrow`` (what there is to say of each video), ``VERSION/corpus.json`` (the commit of the corpus), and
``_INDEX.json``, which names the version and is
replaced in one step: an index is complete or invisible, and a rebuilt one takes over at once.
"""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa

from fpig_core.compressed_index import CompressedIndex
from fpig_core.index_kinds import Effort
from pipelines import storage

MARKER = "_INDEX.json"
FORMAT = 2
VECTORS, FIRST, ROWS, CORPUS = "vectors.npy", "first.faiss", "rows.arrow", "corpus.json"
CACHE = "~/.cache/fpig/indexes"
"""Where copies of remote indexes are kept on this machine."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenIndex:
    """``rows`` and the vectors in ``index`` stand in the same order, that of the corpus; ``meta`` is its marker."""

    index: CompressedIndex
    rows: pa.Table
    meta: dict[str, Any]
    folder: Path

    def read_commit(self) -> dict[str, Any]:
        """All that the corpus told of itself when the index was built, the names of its parts among it."""
        return json.loads((self.folder / CORPUS).read_text())


def is_index(url: str) -> bool:
    return storage.exists(storage.join(url, MARKER))


def read_marker(url: str) -> dict[str, Any]:
    """Content of ``_INDEX.json``.

    Raises:
        ValueError: no complete index there, or one of another format.
    """
    marker = storage.join(url, MARKER)
    if not storage.exists(marker):
        raise ValueError(f"got no complete index at {url}; run python -m jobs.build_index --corpus … --out {url}")
    meta = json.loads(storage.read_bytes(marker))
    if meta.get("format") != FORMAT:
        raise ValueError(f"{marker} has format {meta.get('format')!r}, wanted {FORMAT}; build the index again")
    # They become paths on this machine.
    if not re.fullmatch(r"[0-9a-f]{16}", meta["version"]) or not meta["files"].keys() <= {VECTORS, FIRST, ROWS, CORPUS}:
        raise ValueError(f"{marker} names files that no index has; build the index again")
    return meta


def open_index(url: str, *, cache: str = CACHE) -> OpenIndex:
    """Map the files of an index into memory; those of a remote one are first copied into ``cache``, once.

    Raises:
        ValueError: no complete index there, or a file is not what it was.
    """
    meta = read_marker(url)
    local = storage.local_path(storage.join(url, meta["version"]))
    folder = _copied(url, meta, Path(cache).expanduser()) if local is None else Path(local)
    for name, file in meta["files"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != file["bytes"]:
            raise ValueError(f"{path} is not what it was when it was built; run python -m jobs.build_index again")
    first = None
    if FIRST in meta["files"]:
        first = faiss.read_index(str(folder / FIRST), faiss.IO_FLAG_MMAP_IFC)
    # "c": pages are read when they are touched; torch wants memory that may be written to.
    vector_BD = np.load(folder / VECTORS, mmap_mode="c", allow_pickle=False)
    index = CompressedIndex(meta["kind"], first, vector_BD, effort=Effort(**meta["effort"]))
    with pa.memory_map(str(folder / ROWS)) as source:
        rows = pa.ipc.open_file(source).read_all()
    return OpenIndex(index=index, rows=rows, meta=meta, folder=folder)


def commit_index(url: str, draft: Path, meta: Mapping[str, Any]) -> dict[str, Any]:
    """Put the files of ``draft`` in place as a version of the index at ``url``, and declare it the one that counts.

    Other versions in a local folder are removed; who has one open keeps it.
    """
    files = {path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in sorted(draft.iterdir())}
    version = hashlib.sha256(json.dumps([files, meta["kind"]]).encode()).hexdigest()[:16]
    target = storage.join(url, version)
    local = storage.local_path(target)
    if local is None:
        for name in files:
            storage.upload(draft / name, storage.join(target, name))
    else:
        _put(draft, Path(local))
    marker = {"format": FORMAT, "version": version, "files": files, **meta}
    storage.write_bytes(storage.join(url, MARKER), (json.dumps(marker, indent=2) + "\n").encode())
    if local is not None:
        for folder in Path(local).parent.iterdir():
            if folder.is_dir() and folder.name != version and (folder / ROWS).exists():
                shutil.rmtree(folder)
    return marker


def _copied(url: str, meta: Mapping[str, Any], cache: Path) -> Path:
    """The folder in ``cache`` that holds this version, proved by its digests when it is copied."""
    folder = cache / meta["version"]
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".draft-") as place:
        draft = Path(place) / "index"
        draft.mkdir()
        for name, file in meta["files"].items():
            source = storage.join(url, meta["version"], name)
            with (draft / name).open("wb") as sink:
                for chunk in storage.read_chunks(source):
                    sink.write(chunk)
            if _sha256(draft / name) != file["sha256"]:
                raise ValueError(f"{source} is not what it was when the index was built; build the index again")
        _put(draft, folder)
    return folder


def _put(draft: Path, folder: Path) -> None:
    """Move a folder into place, unless its like is there: the name is a digest of the files."""
    if folder.is_dir():
        if {each.name: each.stat().st_size for each in draft.iterdir()} == {
            each.name: each.stat().st_size for each in folder.iterdir()
        }:
            return
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    os.replace(draft, folder)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
