"""Prove from storage alone that a corpus is complete and sound."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines import storage
from pipelines.corpus import NUM_READERS, part_files, read_committed
from pipelines.manifest import Manifest
from pipelines.parts import METADATA_PREFIX, CorpusSpec, Part, part_name, plan_parts, read_table, vectors_of

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

    Checked: each uid once, in parts or in quarantine; names, metadata and counts; finite vectors of norm 1.

    Raises:
        ValueError: there is no complete corpus.
    """
    meta = read_committed(url)
    spec = CorpusSpec(
        **{field.name: meta[field.name] for field in dataclasses.fields(CorpusSpec) if field.name != "extra_columns"},
        extra_columns=tuple(filter(None, meta["extra_columns"].split(","))),
    )
    parts = plan_parts(manifest, spec.model_id, part_rows=spec.part_rows)
    problems = _folder_problems(url, manifest=manifest, meta=meta, parts=parts)
    with ThreadPoolExecutor(NUM_READERS) as pool:
        facts = list(pool.map(lambda part: _inspect(url, part, spec=spec, manifest=manifest), parts))
    embedded = [uid for fact in facts for uid in fact.embedded]
    rejected = [uid for fact in facts for uid in fact.rejected]
    problems += [problem for fact in facts for problem in fact.problems]
    problems += _uid_problems(embedded, rejected, manifest=manifest)
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
    wanted = manifest.table.column("uid").slice(part.start, len(part)).to_pylist()
    both = set(embedded) | set(rejected)
    if part_name(spec.model_id, [uid for uid in wanted if uid in both]) != part.name or len(both) != len(part):
        problems.append(f"part {part.name} does not hold the {len(part)} samples that it is named by")
    for column in spec.vector_columns:
        problems += _vector_problems(vectors_of(table, column), f"part {part.name}, {column}", spec=spec)
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
    except (ConnectionError, TimeoutError):
        raise  # an outage is no damage
    except (pa.ArrowException, OSError) as error:
        problems.append(f"{file} cannot be read: {type(error).__name__}: {str(error)[:200]}")
        return None
    if not table.schema.equals(schema):
        got, wanted = (", ".join(f"{field.name} {field.type}" for field in each) for each in (table.schema, schema))
        problems.append(f"{file} has the columns {got}; wanted {wanted}")
        return None
    if empty := [name for name in table.column_names if table.column(name).null_count]:
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


def _vector_problems(vector_BD: np.ndarray, where: str, *, spec: CorpusSpec) -> list[str]:
    if not np.isfinite(vector_BD).all():
        return [f"{where}: NaN or inf"]
    if where.endswith("pseudo_query"):
        return []  # raw by contract, so any norm is right
    error = np.abs(np.linalg.norm(vector_BD, axis=1) - 1).max(initial=0)
    return [f"{where}: a norm is off 1 by {error:.2g}"] if error > NORM_TOLERANCE[spec.dtype] else []


def _uid_problems(embedded: list[str], rejected: list[str], *, manifest: Manifest) -> list[str]:
    times, wanted = Counter(embedded + rejected), set(manifest.table.column("uid").to_pylist())
    sets = {
        "are in the manifest but neither embedded nor rejected": wanted - set(times),
        "are in the corpus but not in the manifest": set(times) - wanted,
        "appear more than once": {uid for uid, count in times.items() if count > 1},
    }
    return [f"{len(uids)} samples {text} (first: {min(uids)})" for text, uids in sets.items() if uids]
