"""Prove from storage alone that a corpus is complete and sound."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines import storage
from pipelines.columns import VECTOR, Column
from pipelines.corpus import NUM_READERS, part_files, read_committed
from pipelines.manifest import Manifest
from pipelines.parts import (
    MAX_PART_BYTES,
    METADATA_PREFIX,
    SHAPE,
    CorpusSpec,
    Part,
    part_name,
    plan_parts,
    read_table,
    values_of,
)

NORM_TOLERANCE = {"float16": 2e-3, "float32": 1e-4}
MAX_PROBLEMS = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verification:
    """What a corpus holds; ``problems`` is empty for a sound one."""

    num_samples: int
    num_embedded: int
    num_rejected: int
    rejected: Mapping[str, int]
    num_bytes: int
    problems: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _PartFacts:
    embedded: list[str]
    rejected: list[str]
    reasons: list[str]
    num_bytes: int
    problems: list[str]


def verify_corpus(url: str, manifest: Manifest) -> Verification:
    """Read every file of a corpus and hold it against the manifest.

    Checked: each uid once, in parts or in quarantine; names, shapes, metadata and counts; finite numbers, and norm 1 in
    ``vector`` and in the columns whose names begin with ``vector_``.

    Raises:
        ValueError: there is no complete corpus.
    """
    meta = read_committed(url)
    spec = CorpusSpec.from_meta(meta)
    parts = plan_parts(manifest, spec.model_id, part_rows=spec.part_rows)
    problems = _folder_problems(url, manifest=manifest, meta=meta, parts=parts)
    num_readers = min(NUM_READERS, max(1, MAX_PART_BYTES // (spec.part_rows * spec.row_bytes)))
    with ThreadPoolExecutor(num_readers) as pool:
        facts = list(pool.map(lambda part: _inspect(url, part, spec=spec, manifest=manifest), parts))
    embedded = [uid for fact in facts for uid in fact.embedded]
    rejected = [uid for fact in facts for uid in fact.rejected]
    problems += [problem for fact in facts for problem in fact.problems]
    problems += _uid_problems(embedded, rejected, manifest=manifest)
    if meta["part_embedded"] != [len(fact.embedded) for fact in facts]:
        problems.append("part_embedded of the commit does not count the rows of the parts")
    for name, got in (("num_embedded", len(embedded)), ("num_rejected", len(rejected))):
        if meta[name] != got:
            problems.append(f"{name} is {meta[name]} in the commit and {got} in the files")
    return Verification(
        num_samples=manifest.num_rows,
        num_embedded=len(embedded),
        num_rejected=len(rejected),
        rejected=dict(Counter(reason for fact in facts for reason in fact.reasons)),
        num_bytes=sum(fact.num_bytes for fact in facts),
        problems=tuple(problems[:MAX_PROBLEMS]),
    )


def _folder_problems(url: str, *, manifest: Manifest, meta: dict[str, Any], parts: list[Part]) -> list[str]:
    problems = []
    if meta["manifest_digest"] != manifest.digest:
        problems.append(f"the corpus is of manifest {meta['manifest_digest']}, this manifest is {manifest.digest}")
    if meta["parts"] != [part.name for part in parts]:
        problems.append("the parts of the commit are not those that the manifest and the model call for")
    present = {file.rsplit("/", 1)[-1].removesuffix(".parquet") for file in part_files(url)}
    if foreign := present - set(meta["parts"]):
        problems.append(f"{len(foreign)} files in parts/ are not in the commit (first: {min(foreign)})")
    return problems


def _inspect(url: str, part: Part, *, spec: CorpusSpec, manifest: Manifest) -> _PartFacts:
    """Read both files of a part; if one of them is damaged, the part counts as empty."""
    schemas = {part.url(url): spec.schema(), part.quarantine_url(url): spec.quarantine_schema()}
    problems: list[str] = []
    table, quarantine = (_read_sound(file, schema, problems=problems) for file, schema in schemas.items())
    if table is None or quarantine is None:
        return _PartFacts(embedded=[], rejected=[], reasons=[], num_bytes=0, problems=problems)
    embedded, rejected = table.column("uid").to_pylist(), quarantine.column("uid").to_pylist()
    wanted = manifest.slice(part.start, part.stop, columns=["uid"])["uid"].to_pylist()
    both = set(embedded) | set(rejected)
    if part_name(spec.model_id, [uid for uid in wanted if uid in both]) != part.name or len(both) != len(part):
        problems.append(f"part {part.name} does not hold the {len(part)} samples that it is named by")
    for column in spec.columns:
        problems += _column_problems(table, column, f"part {part.name}, {column.name}", spec=spec)
    return _PartFacts(
        embedded=embedded,
        rejected=rejected,
        reasons=quarantine.column("reason").to_pylist(),
        num_bytes=sum(storage.size(file) for file in schemas),
        problems=problems,
    )


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
    return table


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


def _uid_problems(embedded: list[str], rejected: list[str], *, manifest: Manifest) -> list[str]:
    times, wanted = (
        Counter(embedded + rejected),
        {uid for rows in manifest.batches(["uid"]) for uid in rows["uid"].to_pylist()},
    )
    sets = {
        "are in the manifest but neither embedded nor rejected": wanted - set(times),
        "are in the corpus but not in the manifest": set(times) - wanted,
        "appear more than once": {uid for uid, count in times.items() if count > 1},
    }
    return [f"{len(uids)} samples {text} (first: {min(uids)})" for text, uids in sets.items() if uids]
