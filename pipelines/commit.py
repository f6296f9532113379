"""Declare a corpus complete, once all of its parts are there, and refuse what would spoil one that is there already."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np

from pipelines import storage
from pipelines.corpus import COMMITTED, find_committed, kept_manifest, parts_digest
from pipelines.manifest import Manifest, load_manifest
from pipelines.part_files import Folder, Tally, missing_parts, part_files
from pipelines.part_plan import Parts
from pipelines.parts import FORMAT, CorpusSpec, Written, read_identity

HISTORY = ("manifest_digest", "parts_digest", "num_samples", "num_rejected", "code_revision", "mlflow_run_id")
"""What a commit keeps of those before it."""


def require_same(url: str, spec: CorpusSpec) -> None:
    """Refuse a folder that already holds a corpus of another model or layout.

    Raises:
        ValueError: what the folder was made with, what was wanted, and the remedy.
    """
    got = _identity_of_folder(url)
    for name, wanted in spec.identity().items():
        if got and got.get(name) != wanted:
            raise ValueError(
                f"the corpus at {url} was made with {name}={got.get(name, 'unknown')!r}, this request has "
                f"{name}={wanted!r}; give another output folder, or delete that one"
            )


def _identity_of_folder(url: str) -> dict[str, str]:
    """Identity of what a folder holds; empty if it holds nothing yet."""
    if meta := find_committed(url):
        return CorpusSpec.from_meta(meta).identity()
    file = next((file for folder in get_args(Folder) for file in part_files(url, folder=folder)), None)
    return (read_identity(file) or {"model_id": "unknown"}) if file else {}


def require_growth(url: str, meta: Mapping[str, Any], names: np.ndarray) -> None:
    """Refuse to leave out what a commit holds; ``names`` are those of the wanted parts, bytes [parts].

    Raises:
        ValueError: which parts would be left out, and how to ask for that.
    """
    lost = np.setdiff1d(np.array(meta["parts"], names.dtype), names)
    if len(lost):
        raise stale_parts(url, len(lost), lost[0].decode())


def stale_parts(url: str, count: int, first: str) -> ValueError:
    return ValueError(
        f"{url} holds {count} parts with videos that are not in this manifest, or were replaced (such as {first}); "
        "give another output folder, or leave them out of the corpus with --stale leave"
    )


def _keep_manifest(url: str, manifest: Manifest) -> None:
    kept = kept_manifest(url, manifest.digest)
    if not storage.exists(kept):
        storage.copy(manifest.url, kept)
    if (got := load_manifest(kept).digest) != manifest.digest:
        storage.remove(kept)
        raise ValueError(
            f"got manifest {got} at {manifest.url}, wanted {manifest.digest}: it was written anew; "
            "run the same command again"
        )


def remove_manifests(url: str, *, keep: str) -> None:
    """Delete the manifests of earlier commits, all but the one of the digest ``keep``."""
    for file in storage.list_files(storage.join(url, "manifests")):
        if file != kept_manifest(url, keep):
            storage.remove(file)


def commit(
    url: str,
    *,
    spec: CorpusSpec,
    manifest: Manifest,
    parts: Parts,
    counts: Tally,
    written: Written,
    lineage: Mapping[str, Any],
    may_shrink: bool = False,
) -> dict[str, Any]:
    """Declare the corpus complete: write ``_COMMITTED.json`` and return its content.

    If a second copy of the job was faster, its commit stands. ``may_shrink``: parts of an earlier one may be left out.

    Raises:
        ValueError: a part is not there, the manifest was written anew, the folder was given to another corpus
            meanwhile, or another job has committed videos that this manifest lacks.
    """
    require_same(url, spec)
    if left := missing_parts(url, parts):
        raise ValueError(f"{len(left)} parts of {url} are missing (first: {left[0].name}); run the same command again")
    assert not counts.unknown, f"{len(counts.unknown)} parts were not counted"
    names = [name.decode() for name in parts.names]
    meta = {
        "format": FORMAT,
        **dataclasses.asdict(spec),
        **dataclasses.asdict(written),
        "num_samples": parts.num_samples,
        "num_embedded": int(counts.num_embedded.sum()),
        "num_rejected": counts.rejected.total(),
        "rejected": dict(sorted(counts.rejected.items())),
        "parts": names,
        "part_embedded": counts.num_embedded.tolist(),
        "parts_digest": parts_digest(names),
        "previous": [],
        **lineage,
    }
    assert meta["num_samples"] == meta["num_embedded"] + meta["num_rejected"], meta
    _keep_manifest(url, manifest)
    if before := find_committed(url):
        if not may_shrink:
            require_growth(url, before, parts.names)
        if all(before[name] == meta[name] for name in ("parts_digest", "manifest_digest", "part_embedded")):
            return before
        meta["previous"] = [*before["previous"], {name: before[name] for name in HISTORY}]
    storage.write_bytes(storage.join(url, COMMITTED), (json.dumps(meta, indent=2) + "\n").encode())
    return meta
