"""Prove from storage alone that a corpus is complete and sound."""

import dataclasses
import functools
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipelines import storage
from pipelines.columns import VECTOR, Column
from pipelines.corpus import read_committed
from pipelines.manifest import Manifest, sample_uid
from pipelines.ordered import map_on_threads
from pipelines.part_files import NUM_READERS, Examples, Tally, find_parts
from pipelines.part_plan import Part, Parts, plan_parts
from pipelines.parts import (
    MAX_PART_BYTES,
    METADATA_PREFIX,
    SHAPE,
    CorpusSpec,
    PartCount,
    Written,
    read_table,
    values_of,
)

NORM_TOLERANCE = {"float16": 2e-3, "float32": 1e-4, "int8": 1e-4}
MAX_PROBLEMS = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verification:
    """What a corpus holds; ``problems`` is empty for a sound one."""

    num_samples: int
    num_embedded: int
    num_rejected: int
    rejected: Mapping[str, int]
    num_bytes: int
    manifests: Mapping[str, int]
    """Manifest digest -> the parts that were written under it: several in a corpus that grew."""
    num_left_over: int
    """Parts in the folder that the commit leaves out. No reader sees them."""
    problems: tuple[str, ...]


class _PartFacts(NamedTuple):
    """What the files of a part hold, and the uids that are wrong in them, by what is wrong."""

    num_embedded: int
    reasons: Counter[str]
    num_bytes: int
    wrong_uids: dict[str, list[str]]
    problems: list[str]
    manifest_digest: str


def verify_corpus(url: str, manifest: Manifest) -> Verification:
    """Read every file of a corpus and hold it against the manifest.

    Checked: each uid once, in parts or in quarantine; names, shapes, metadata and counts; finite numbers, and norm 1 in
    ``vector`` and in the columns whose names begin with ``vector_``. Names of parts are digests of what the manifest
    tells of their samples, the sha256 of the videos included: so a part of videos that were replaced since is found.

    Memory is that of some parts and of one shard's rows. Each part is held against its own manifest rows, which no
    other part has; that no uid stands in the manifest twice is proved beside it (``repeated_samples``).

    Raises:
        ValueError: there is no complete corpus.
    """
    meta = read_committed(url)
    spec = CorpusSpec.from_meta(meta)
    parts = plan_parts(manifest, spec.digest, part_rows=spec.part_rows)
    found, num_bytes, manifests = Tally(parts), 0, Counter[str]()
    wrong_uids: defaultdict[str, Examples] = defaultdict(Examples)
    damage: list[str] = []
    num_readers = min(NUM_READERS, max(1, MAX_PART_BYTES // (spec.part_rows * spec.row_bytes)))
    inspect = functools.partial(_inspect, url, spec=spec, manifest=manifest)
    for part, facts in zip(parts, map_on_threads(inspect, parts, num_threads=num_readers), strict=True):
        found.add(PartCount(name=part.name, start=part.start, num_embedded=facts.num_embedded, rejected=facts.reasons))
        num_bytes += facts.num_bytes
        manifests[facts.manifest_digest] += 1
        damage += facts.problems[: MAX_PROBLEMS - len(damage)]
        for what, uids in facts.wrong_uids.items():
            wrong_uids[what].add(uids)
    num_embedded, num_rejected = int(found.num_embedded.sum()), found.rejected.total()
    problems = _commit_problems(manifest=manifest, meta=meta, parts=parts) + repeated_samples(manifest)
    problems += [uids.told(what) for what, uids in wrong_uids.items() if uids.count]
    if not np.array_equal(meta["part_embedded"], found.num_embedded):
        problems.append("part_embedded of the commit does not count the rows of the parts")
    for name, got in (("num_embedded", num_embedded), ("num_rejected", num_rejected)):
        if meta[name] != got:
            problems.append(f"{name} is {meta[name]} in the commit and {got} in the files")
    return Verification(
        num_samples=manifest.num_rows,
        num_embedded=num_embedded,
        num_rejected=num_rejected,
        rejected=dict(found.rejected),
        num_bytes=num_bytes,
        manifests=dict(manifests),
        num_left_over=find_parts(url, np.array(meta["parts"], dtype=parts.names.dtype))[1].count,
        problems=tuple([*problems, *damage][:MAX_PROBLEMS]),
    )


def _commit_problems(*, manifest: Manifest, meta: dict[str, Any], parts: Parts) -> list[str]:
    problems = []
    if meta["manifest_digest"] != manifest.digest:
        problems.append(f"the corpus is of manifest {meta['manifest_digest']}, this manifest is {manifest.digest}")
    if not np.array_equal(np.array(meta["parts"], dtype=parts.names.dtype), parts.names):
        problems.append("the parts of the commit are not those that the manifest and the model call for")
    return problems


def repeated_samples(manifest: Manifest) -> list[str]:
    """What keeps the uids of a manifest from being different ones, in the memory of one shard's keys.

    A uid is the digest of its shard and its key. So it is enough that each is that digest, that the rows of a shard
    stand together, and that no key comes twice among them. The names of all shards are kept.
    """
    wrong, scattered, repeated = Examples(), Examples(), Examples()
    shard, shards, keys = "", set[str](), set[str]()
    for rows in manifest.batches(["uid", "shard", "key"]):
        for uid, its_shard, key in zip(*(rows[name].to_pylist() for name in rows.column_names), strict=True):
            if its_shard != shard:
                shard, keys = its_shard, set()
                scattered.add([shard] if shard in shards else [])
                shards.add(shard)
            repeated.add([uid] if key in keys else [])
            wrong.add([uid] if uid != sample_uid(shard, key) else [])
            keys.add(key)
    told = {
        "samples stand in the manifest more than once": repeated,
        "uids of the manifest are not those of shard and key": wrong,
        "shards of the manifest are in pieces, so that repeated samples could be overlooked": scattered,
    }
    return [found.told(what) for what, found in told.items() if found.count]


def _inspect(url: str, part: Part, *, spec: CorpusSpec, manifest: Manifest) -> _PartFacts:
    """Read both files of a part; if one of them is damaged, the part counts as empty."""
    schemas = {part.url(url): spec.schema(), part.quarantine_url(url): spec.quarantine_schema()}
    wanted = manifest.slice(part.start, part.stop, columns=["uid"])["uid"].to_pylist()
    problems: list[str] = []
    table, quarantine = (_read_sound(file, schema, problems=problems) for file, schema in schemas.items())
    if table is None or quarantine is None:
        return _PartFacts(0, Counter(), 0, _wrong_uids([], wanted), problems, "unreadable")
    uids = [*table.column("uid").to_pylist(), *quarantine.column("uid").to_pylist()]
    for column in spec.columns:
        problems += _column_problems(table, column, f"part {part.name}, {column.name}", spec=spec)
    return _PartFacts(
        num_embedded=table.num_rows,
        reasons=Counter(quarantine.column("reason").to_pylist()),
        num_bytes=sum(storage.size(file) for file in schemas),
        wrong_uids=_wrong_uids(uids, wanted),
        problems=problems,
        manifest_digest=_told(table.schema, "manifest_digest"),
    )


def _wrong_uids(uids: list[str], wanted: list[str]) -> dict[str, list[str]]:
    """What the uids of a part's files, in parts or in quarantine, lack and have beside those of its manifest rows."""
    times = Counter(uids)
    return {
        "samples of the manifest are neither embedded nor rejected": [uid for uid in wanted if uid not in times],
        "samples of the corpus are not in the manifest, or not in these rows": list(times.keys() - set(wanted)),
        "samples appear more than once": [uid for uid, count in times.items() if count > 1],
    }


def _read_sound(file: str, schema: pa.Schema, *, problems: list[str]) -> pa.Table | None:
    """The table of a file, or None if it cannot be used. What is wrong is added to ``problems``."""
    try:
        table = read_table(file)
        table.validate(full=True)
    except FileNotFoundError:
        problems.append(f"{file} is missing")
        return None
    except (ConnectionError, TimeoutError, PermissionError):
        raise  # an outage is no damage, nor is a refusal
    except (pa.ArrowException, OSError) as error:
        problems.append(f"{file} cannot be read: {type(error).__name__}: {str(error)[:200]}")
        return None
    if not table.schema.equals(schema):
        got, wanted = (", ".join(f"{field.name} {field.type}" for field in each) for each in (table.schema, schema))
        problems.append(f"{file} has the columns {got}; wanted {wanted}")
        return None
    if other := [field.name for field in schema if _shape_of(table.schema.field(field.name)) != _shape_of(field)]:
        problems.append(f"{file} gives {other[0]} another shape than the commit")
        return None
    if empty := [field.name for field in table.schema if _has_null(table.column(field.name))]:
        problems.append(f"{file} has rows without {empty[0]}")
        return None
    got = table.schema.metadata or {}
    problems += [
        f"{file} carries {_shown(name)}={_shown(got.get(name, b''))!r}, wanted {_shown(wanted)!r}"
        for name, wanted in schema.metadata.items()
        if got.get(name) != wanted
    ]
    problems += [
        f"{file} does not tell its {field.name}"
        for field in dataclasses.fields(Written)
        if (METADATA_PREFIX + field.name).encode() not in got
    ]
    return table


def _told(schema: pa.Schema, name: str) -> str:
    return (schema.metadata or {}).get((METADATA_PREFIX + name).encode(), b"unknown").decode(errors="replace")


def _shown(metadata: bytes) -> str:
    return metadata.decode(errors="replace").removeprefix(METADATA_PREFIX)


def _has_null(column: pa.ChunkedArray) -> bool:
    lists = pa.types.is_fixed_size_list(column.type)
    return any(chunk.null_count or (lists and chunk.flatten().null_count) for chunk in column.chunks)


def _shape_of(field: pa.Field) -> bytes | None:
    return (field.metadata or {}).get(SHAPE)


def _column_problems(table: pa.Table, column: Column, where: str, *, spec: CorpusSpec) -> list[str]:
    value_B = values_of(table, column)
    if not np.isfinite(value_B).all():
        return [f"{where}: NaN or inf"]
    if column.name != VECTOR and not column.name.startswith(f"{VECTOR}_"):
        return []
    error = np.abs(np.linalg.norm(value_B.astype(np.float32), axis=-1) - 1).max(initial=0)
    return [f"{where}: a norm is off 1 by {error:.2g}"] if error > NORM_TOLERANCE[spec.dtype] else []
