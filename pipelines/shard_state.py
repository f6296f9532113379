"""What was known of every shard when its set was last indexed, so that only changed shards are read again.

``shards.parquet`` lies beside the manifest and names it by its digest: a state that belongs to another manifest, as a
kill between the two writes leaves it, is not used.
"""

import contextlib
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.manifest import MANIFEST_NAME, is_manifest
from pipelines.manifest_file import DIGEST_KEY
from pipelines.ranges import RangeFile
from pipelines.row_groups import RowGroups
from pipelines.samples import Note
from pipelines.tarwalk import ShardError

STATE_NAME = "shards.parquet"
_AT_ONCE = 4096
_VERSION_KEY, _VERSION = b"fpig.index_version", b"1"
"""To be raised whenever the same shard would give other rows."""
_NOTE = pa.struct([("code", pa.string()), ("count", pa.int64()), ("example", pa.string())])
_SCHEMA = pa.schema(
    [
        ("shard", pa.string()),
        ("num_bytes", pa.int64()),
        ("stamp", pa.string()),  # ETag or time of the last change; "" if the store has neither
        ("num_rows", pa.int64()),
        ("num_ignored", pa.int64()),
        ("rows_digest", pa.string()),
        ("with_digests", pa.bool_()),
        ("with_probes", pa.bool_()),
        ("notes", pa.list_(_NOTE)),
        ("damage", pa.string()),  # "" or a key of SHARD_REASONS
        ("detail", pa.string()),
    ]
)


class Stamp(NamedTuple):
    """An object as the store lists it: bytes, and ETag or time of the last change ("" if the store has neither)."""

    num_bytes: int
    mark: str


class ShardState(NamedTuple):
    """One shard: the object that was read, how, and what was found besides its rows."""

    shard: str
    num_bytes: int
    stamp: str
    num_rows: int
    num_ignored: int
    rows_digest: str
    with_digests: bool
    with_probes: bool
    notes: tuple[Note, ...]
    damage: str
    detail: str

    @property
    def error(self) -> ShardError | None:
        return ShardError(self.damage, self.detail) if self.damage else None


class Kept(NamedTuple):
    """A shard that is as it was, and the number of its first manifest row then."""

    state: ShardState
    start: int


class KnownShards:
    """The last index of a set: what it knew of each shard, in their order, and the rows. It may hold nothing.

    Both are read again whenever they are asked for: in memory stand some thousand shards.
    """

    def __init__(self, file: pq.ParquetFile | None = None, groups: RowGroups | None = None, *, digest: str = ""):
        self.digest = digest
        self._file, self._groups = file, groups

    def __iter__(self) -> Iterator[Kept]:
        start = 0
        for batch in self._file.iter_batches(_AT_ONCE) if self._file else ():
            for row in batch.to_pylist():
                state = ShardState(**(row | {"notes": tuple(Note(**note) for note in row["notes"])}))
                yield Kept(state, start)
                start += state.num_rows

    def matched(
        self, shards: Iterable[tuple[str, Stamp]], *, with_digests: bool, with_probes: bool
    ) -> Iterator[tuple[str, Stamp, Kept | None]]:
        """``shards``, which are in order, and of those that were read as they are now and in the way that is wanted
        now, what was known.
        """
        for shard, stamp, kept in self._beside(shards):
            wanted = (*stamp, with_digests, with_probes)
            state = kept.state if kept else None
            known = (state.num_bytes, state.stamp, state.with_digests, state.with_probes) if state else ()
            yield shard, stamp, kept if stamp.mark and known == wanted else None

    def num_gone(self, shards: Iterable[tuple[str, Stamp]]) -> int:
        """How many of the known shards are not among ``shards``."""
        num_known = sum(1 for _ in self)
        return num_known - sum(kept is not None for *_, kept in self._beside(shards))

    def _beside(self, shards: Iterable[tuple[str, Stamp]]) -> Iterator[tuple[str, Stamp, Kept | None]]:
        known = iter(self)
        kept = next(known, None)
        for shard, stamp in shards:
            while kept and kept.state.shard < shard:
                kept = next(known, None)
            yield shard, stamp, kept if kept and kept.state.shard == shard else None

    def rows(self, kept: Kept) -> pa.Table:
        assert self._groups is not None, "a known shard without a manifest"
        return self._groups.slice(kept.start, kept.start + kept.state.num_rows)


def load_known(root_url: str) -> KnownShards:
    """The last index of the set; an empty one if there is none that can be used."""
    try:
        groups = RowGroups(storage.join(root_url, MANIFEST_NAME))
        file = pq.ParquetFile(RangeFile(storage.join(root_url, STATE_NAME)), pre_buffer=True)
        metadata: dict[bytes, bytes] = file.metadata.metadata or {}
        is_ours = metadata.get(_VERSION_KEY) == _VERSION and file.schema_arrow.equals(_SCHEMA)
        if not is_ours or not is_manifest(groups.schema) or metadata.get(DIGEST_KEY, b"").decode() != groups.digest:
            return KnownShards()
        num_rows = sum(pc.call_function("sum", [batch[0]]).as_py() for batch in file.iter_batches(columns=["num_rows"]))
    except (FileNotFoundError, NotADirectoryError, pa.ArrowException):
        return KnownShards()
    return KnownShards(file, groups, digest=groups.digest) if num_rows == groups.num_rows else KnownShards()


class StateWriter:
    """Takes what was found of one shard after the other."""

    def __init__(self, path: Path):
        self._file = pq.ParquetWriter(path, _SCHEMA, compression="zstd")
        self._waiting: list[dict[str, Any]] = []

    def add(self, state: ShardState) -> None:
        self._waiting.append(state._asdict() | {"notes": [note._asdict() for note in state.notes]})
        if len(self._waiting) == _AT_ONCE:
            self._flush()

    def close(self, digest: str) -> None:
        """Finish the state that belongs to the manifest with this digest; the manifest must be there already."""
        self._flush()
        self._file.add_key_value_metadata({DIGEST_KEY.decode(): digest, _VERSION_KEY.decode(): _VERSION.decode()})
        self._file.close()

    def _flush(self) -> None:
        if self._waiting:
            self._file.write_table(pa.Table.from_pylist(self._waiting, schema=_SCHEMA))
        self._waiting = []


@contextlib.contextmanager
def writing_states(root_url: str) -> Iterator[StateWriter]:
    """A writer whose file appears beside the manifest when the block ends well; call ``close`` in it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / STATE_NAME
        yield StateWriter(path)
        storage.upload(path, storage.join(root_url, STATE_NAME))
