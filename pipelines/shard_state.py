"""What was known of every shard when its set was last indexed, so that only changed shards are read again.

``shards.parquet`` lies beside the manifest and names it by its digest: a state that belongs to another manifest, as a
kill between the two writes leaves it, is not used.
"""

import io
from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.manifest import MANIFEST_NAME, is_manifest
from pipelines.manifest_file import DIGEST_KEY
from pipelines.row_groups import RowGroups
from pipelines.samples import Note
from pipelines.tarwalk import ShardError

STATE_NAME = "shards.parquet"
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


class KnownShards:
    """The last index of a set: what it knew of each shard, and the shard's rows. It may hold nothing."""

    def __init__(self, states: Sequence[ShardState] = (), groups: RowGroups | None = None, *, digest: str = ""):
        self.digest = digest
        self.shards = [state.shard for state in states]
        self._groups = groups
        self._places: dict[str, tuple[ShardState, int]] = {}
        start = 0
        for state in states:
            self._places[state.shard] = state, start
            start += state.num_rows

    def state(
        self, shard: str, *, num_bytes: int, stamp: str, with_digests: bool, with_probes: bool
    ) -> ShardState | None:
        """The state of a shard, if it was read as it is now, and in the way that is wanted now."""
        state, _ = self._places.get(shard, (None, 0))
        wanted = (num_bytes, stamp, with_digests, with_probes)
        if not stamp or state is None:
            return None
        known = (state.num_bytes, state.stamp, state.with_digests, state.with_probes)
        return state if known == wanted else None

    def rows(self, shard: str) -> pa.Table:
        state, start = self._places[shard]
        assert self._groups is not None, "a known shard without a manifest"
        return self._groups.slice(start, start + state.num_rows)


def load_known(root_url: str) -> KnownShards:
    """The last index of the set; an empty one if there is none that can be used."""
    try:
        groups = RowGroups(storage.join(root_url, MANIFEST_NAME))
        file = pq.ParquetFile(pa.BufferReader(storage.read_bytes(storage.join(root_url, STATE_NAME))))
    except (FileNotFoundError, NotADirectoryError, pa.ArrowException):
        return KnownShards()
    metadata: dict[bytes, bytes] = file.metadata.metadata or {}
    is_ours = metadata.get(_VERSION_KEY) == _VERSION and file.schema_arrow.equals(_SCHEMA)
    if not is_ours or not is_manifest(groups.schema) or metadata.get(DIGEST_KEY, b"").decode() != groups.digest:
        return KnownShards()
    states = [
        ShardState(**(row | {"notes": tuple(Note(**note) for note in row["notes"])})) for row in file.read().to_pylist()
    ]
    if sum(state.num_rows for state in states) != groups.num_rows:
        return KnownShards()
    return KnownShards(states, groups, digest=groups.digest)


def save_states(root_url: str, states: Sequence[ShardState], *, digest: str) -> None:
    """Write the state that belongs to the manifest with this digest; the manifest must be there already."""
    rows = [state._asdict() | {"notes": [note._asdict() for note in state.notes]} for state in states]
    schema = _SCHEMA.with_metadata({DIGEST_KEY: digest.encode(), _VERSION_KEY: _VERSION})
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink, compression="zstd")
    storage.write_bytes(storage.join(root_url, STATE_NAME), sink.getvalue())
