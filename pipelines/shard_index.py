"""Index one shard: its rows of the manifest, and its state."""

import functools
from typing import Any, NamedTuple

import pyarrow as pa

from pipelines import storage
from pipelines.bytesource import RangeSource, StreamSource
from pipelines.downloads import absent_downloads
from pipelines.guarded import probe_guarded
from pipelines.manifest import MANIFEST_SCHEMA, PROBED_SCHEMA, shard_digest
from pipelines.probe import Probe
from pipelines.quarantine import OK
from pipelines.samples import Found, Note, collect_samples
from pipelines.shard_state import ShardState, Stamp


class ShardIndex(NamedTuple):
    """``rows`` in the order of the tar."""

    state: ShardState
    rows: pa.Table


def index_shard(root_url: str, shard: str, stamp: Stamp, *, with_digests: bool, with_probes: bool) -> ShardIndex:
    """Read one shard. What is wrong with it is part of the result.

    Raises:
        OSError: the store refuses or does not answer.
    """
    url = storage.join(root_url, shard)
    found = read_samples(url, num_bytes=stamp.num_bytes, with_digests=with_digests)
    rows = [sample.row(shard, stamp.num_bytes) for sample in found.samples]
    absent = absent_downloads(url, (sample.key for sample in found.samples))
    notes = (*found.notes, *([Note("not_in_tar", len(absent), absent[0])] if absent else ()))
    if with_probes:
        rows = [row | _probe(url, row)._asdict() for row in rows]
    table = pa.Table.from_pylist(rows, schema=PROBED_SCHEMA if with_probes else MANIFEST_SCHEMA)
    state = ShardState(
        shard=shard,
        num_bytes=stamp.num_bytes,
        stamp=stamp.mark,
        num_rows=table.num_rows,
        num_ignored=found.num_ignored,
        rows_digest=shard_digest(table),
        with_digests=with_digests,
        with_probes=with_probes,
        notes=notes,
        damage=found.damage.code if found.damage else "",
        detail=found.damage.detail if found.damage else "",
    )
    return ShardIndex(state, table)


def read_samples(url: str, *, num_bytes: int, with_digests: bool) -> Found:
    """The samples of a shard: all its bytes are read for digests, else headers and texts."""
    if with_digests:
        return collect_samples(StreamSource(storage.read_chunks(url)))
    return collect_samples(RangeSource(functools.partial(_read, url, 0), num_bytes=num_bytes), with_digests=False)


def _probe(url: str, row: dict[str, Any]) -> Probe:
    if row["status"] != OK:
        return Probe()
    read = functools.partial(_read, url, row["video_offset"])
    return probe_guarded(read, num_bytes=row["video_bytes"], suffix=row["video_suffix"])


def _read(url: str, base: int, start: int, length: int) -> bytes:
    return storage.read_bytes(url, start=base + start, length=length)
