"""Build the manifest of a shard set: every new or changed shard is read once, and everything wrong with it is told."""

import dataclasses
import functools
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from pipelines import storage
from pipelines.census import Census
from pipelines.manifest import MANIFEST_NAME, MANIFEST_SCHEMA, PROBED_SCHEMA
from pipelines.manifest_file import writing
from pipelines.ordered import map_on_ray, map_on_threads
from pipelines.shard_index import ShardIndex, index_shard
from pipelines.shard_list import ShardList
from pipelines.shard_state import KnownShards, Stamp, StateWriter, load_known, writing_states

_SHARDS_A_TASK = 8
_Shard = tuple[str, Stamp]


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndexSettings:
    """How to index a shard set."""

    digest: Literal["full", "none"] = "full"
    """``full`` reads every byte, for the SHA-256 of each video. ``none`` reads headers and texts only: the manifest
    then does not prove that a video is the one that was indexed, and its digest does not tell one video from another
    of the same size."""
    probe: bool = False
    """Also read the header of each video: codec, width, height and length become columns of the manifest."""
    incremental: bool = True
    """Read only shards whose size or time of change (ETag in a store) is not that of the last index."""
    workers: Literal["threads", "ray"] = "threads"
    """``ray`` spreads the shards over a cluster: parsing takes a CPU each, and threads share one."""
    num_workers: int = 4
    """Shards (with ``ray``: groups of shards) read at the same time."""

    def __post_init__(self) -> None:
        if self.digest not in ("full", "none") or self.workers not in ("threads", "ray"):
            raise ValueError(f"got digest={self.digest!r}, workers={self.workers!r}; wanted full|none, threads|ray")
        if self.num_workers < 1:
            raise ValueError(f"got num_workers={self.num_workers}, wanted at least 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BadShard:
    """A shard that is damaged as a whole; samples before the damage may be sound. ``code``: of ``SHARD_REASONS``."""

    shard: str
    code: str
    detail: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardNote:
    """Something strange in a shard that rejects no sample. ``code``: of ``NOTES``."""

    shard: str
    code: str
    count: int
    example: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndexReport:
    """``num_read`` shards were new or changed, ``num_removed`` are gone; ``num_ignored`` members are of no use to any
    sample.
    """

    num_shards: int
    num_read: int
    num_removed: int
    num_shard_bytes: int
    num_ignored: int
    census: Census
    bad_shards: list[BadShard]
    notes: list[ShardNote]
    digest: str

    @property
    def num_samples(self) -> int:
        return self.census.num_samples

    @property
    def num_ok(self) -> int:
        return self.census.num_ok

    @property
    def num_captioned(self) -> int:
        return self.census.num_captioned

    @property
    def num_video_bytes(self) -> int:
        return self.census.num_video_bytes

    @property
    def reasons(self) -> dict[str, int]:
        """The rejected samples by reason code."""
        return dict(sorted(self.census.reasons.items()))

    @property
    def num_rejected(self) -> int:
        return self.num_samples - self.num_ok

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        own |= {name: [dataclasses.asdict(item) for item in own[name]] for name in ("bad_shards", "notes")}
        del own["census"]
        return own | self.census.as_dict()


def index_shards(
    root_url: str,
    settings: IndexSettings = IndexSettings(),
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> IndexReport:
    """Index all tars under ``root_url``: write ``manifest.parquet`` there, and ``shards.parquet`` for the next time.

    A bad shard or sample does not stop the work. ``progress`` is called with (shards done, shards in all). Memory is
    bounded by the shards that are read at the same time.

    Raises:
        ValueError: there is no tar.
        OSError: the store refuses or does not answer. A manifest that lacks a shard by accident is never written.
    """
    shards = ShardList(root_url)
    if not len(shards):
        raise ValueError(f"got no .tar under {root_url}; write shards by: python -m jobs.write_shards --out {root_url}")
    known = load_known(root_url) if settings.incremental else KnownShards()
    wanted = {"with_digests": settings.digest == "full", "with_probes": settings.probe}
    is_kept = np.fromiter((found is not None for *_, found in known.matched(shards, **wanted)), bool, len(shards))
    num_gone = known.num_gone(shards)
    missing = ((shard, stamp) for (shard, stamp), kept in zip(shards, is_kept, strict=True) if not kept)
    found = _Found()

    def entries(fresh: Iterator[ShardIndex]) -> Iterator[ShardIndex]:
        for done, (shard, _, kept) in enumerate(known.matched(shards, **wanted), start=1):
            entry = ShardIndex(kept.state, known.rows(kept)) if kept else next(fresh)
            assert entry.state.shard == shard, f"got {entry.state.shard} in the place of {shard}"
            found.add(entry)
            yield entry
            progress(done, len(shards))

    read = functools.partial(_index_group, root_url, **wanted)
    with closing(_fresh(read, missing, settings)) as fresh:
        if num_gone or not is_kept.all():
            schema = PROBED_SCHEMA if settings.probe else MANIFEST_SCHEMA
            with writing_states(root_url) as states:
                digest = _write(root_url, entries(fresh), schema, states)
                states.close(digest)
        else:
            digest = known.digest
            deque(entries(fresh), maxlen=0)
    return IndexReport(
        num_shards=len(shards),
        num_read=int((~is_kept).sum()),
        num_removed=num_gone,
        num_shard_bytes=found.num_bytes,
        num_ignored=found.num_ignored,
        census=found.census,
        bad_shards=found.bad,
        notes=found.notes,
        digest=digest,
    )


class _Found:
    """Sums over the shards; only what is wrong with one is kept by itself."""

    def __init__(self) -> None:
        self.census, self.num_bytes, self.num_ignored = Census(), 0, 0
        self.bad: list[BadShard] = []
        self.notes: list[ShardNote] = []

    def add(self, entry: ShardIndex) -> None:
        state = entry.state
        self.census.add(entry.rows)
        self.num_bytes += state.num_bytes
        self.num_ignored += state.num_ignored
        self.notes += [ShardNote(shard=state.shard, **note._asdict()) for note in state.notes]
        if state.damage:
            self.bad.append(BadShard(shard=state.shard, code=state.damage, detail=state.detail))


def _write(root_url: str, entries: Iterator[ShardIndex], schema: pa.Schema, states: StateWriter) -> str:
    """Write the manifest -> its digest."""
    with writing(storage.join(root_url, MANIFEST_NAME), schema) as writer:
        for entry in entries:
            states.add(entry.state)
            writer.write(entry.rows, digest=entry.state.rows_digest)
        return writer.close()


def _fresh(
    read: Callable[[Sequence[_Shard]], list[ShardIndex]], shards: Iterator[_Shard], settings: IndexSettings
) -> Generator[ShardIndex, None, None]:
    size = _SHARDS_A_TASK if settings.workers == "ray" else 1
    groups = iter(lambda: list(itertools.islice(shards, size)), [])
    if settings.workers == "ray":
        results = map_on_ray(read, groups, num_tasks=settings.num_workers)
    else:
        results = map_on_threads(read, groups, num_threads=settings.num_workers)
    with closing(results):
        for group in results:
            yield from group


def _index_group(root_url: str, shards: Sequence[_Shard], *, with_digests: bool, with_probes: bool) -> list[ShardIndex]:
    return [
        index_shard(root_url, shard, stamp, with_digests=with_digests, with_probes=with_probes)
        for shard, stamp in shards
    ]
