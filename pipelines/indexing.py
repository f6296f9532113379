"""Build the manifest of a shard set: every shard is streamed once, and everything wrong with it is told."""

import dataclasses
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from pipelines import storage
from pipelines.manifest import MANIFEST_SCHEMA, OK, save_manifest
from pipelines.samples import collect_samples
from pipelines.tarwalk import ShardError

_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BadShard:
    """A shard that is damaged as a whole; samples before the damage may be sound. ``code``: of ``SHARD_REASONS``."""

    shard: str
    code: str
    detail: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndexReport:
    """``reasons`` counts the rejected samples by reason code; ``num_ignored`` members are of no use to any sample."""

    num_shards: int
    num_samples: int
    num_ok: int
    num_captioned: int
    num_ignored: int
    num_video_bytes: int
    reasons: dict[str, int]
    bad_shards: list[BadShard]
    digest: str

    @property
    def num_rejected(self) -> int:
        return self.num_samples - self.num_ok


def index_shards(
    root_url: str, *, num_threads: int = 4, progress: Callable[[int, int], None] = lambda done, total: None
) -> IndexReport:
    """Index all tars under ``root_url`` and write ``manifest.parquet`` there.

    A bad shard or sample does not stop the work. ``progress`` is called with (shards done, shards in all).

    Raises:
        ValueError: there is no tar.
        OSError: the store refuses or does not answer. A manifest that lacks a shard by accident is never written.
    """
    shards = find_shards(root_url)
    if not shards:
        raise ValueError(f"got no .tar under {root_url}; write shards by: python -m jobs.write_shards --out {root_url}")
    rows: list[dict[str, Any]] = []
    bad_shards, num_ignored = [], 0
    with ThreadPoolExecutor(num_threads) as pool:
        for done, (samples, bad, ignored) in enumerate(pool.map(lambda s: _index_one(root_url, s), shards), start=1):
            rows += samples
            bad_shards += bad
            num_ignored += ignored
            progress(done, len(shards))
    manifest = save_manifest(root_url, pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA))
    status = Counter(row["status"] for row in rows)
    return IndexReport(
        num_shards=len(shards),
        num_samples=len(rows),
        num_ok=status.pop(OK, 0),
        num_captioned=int(manifest.captioned.sum()),
        num_ignored=num_ignored,
        num_video_bytes=sum(row["video_bytes"] for row in rows),
        reasons=dict(sorted(status.items())),
        bad_shards=bad_shards,
        digest=manifest.digest,
    )


def find_shards(root_url: str) -> list[str]:
    """Paths of all tars under the root, relative to it, sorted; compressed ones too, to be reported."""
    urls = storage.list_files(root_url)
    return [storage.relative(url, root_url) for url in urls if url.endswith(_TAR_SUFFIXES)]


def _index_one(root_url: str, shard: str) -> tuple[list[dict[str, Any]], list[BadShard], int]:
    """(rows in the order of the tar, what is wrong with the shard as a whole, number of ignored members)."""
    url = storage.join(root_url, shard)
    shard_bytes = storage.size(url)
    samples, num_ignored, error = collect_samples(storage.read_chunks(url))
    if error is None and not samples:
        error = ShardError("no_samples", f"{num_ignored} other members")
    bad = [] if error is None else [BadShard(shard=shard, code=error.code, detail=error.detail)]
    return [sample.row(shard, shard_bytes) for sample in samples], bad, num_ignored
