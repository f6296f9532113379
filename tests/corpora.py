"""Small corpora made by hand, with columns of several shapes and a few rejected samples."""

import dataclasses
import uuid

import numpy as np
import pyarrow as pa

from pipelines import storage
from pipelines.columns import Column
from pipelines.commit import commit
from pipelines.manifest import MANIFEST_SCHEMA, sample_uid, save_manifest
from pipelines.part_files import Tally, count_parts, missing_parts
from pipelines.part_plan import plan_parts
from pipelines.parts import CorpusSpec, Written, part_bytes, quarantine_bytes

DIM = 8
VECTOR = Column(name="vector", shape=(DIM,))
PATCHES = Column(name="patch_vectors", shape=(3, 2, 5))
KEPT = Column(name="selected_tokens", shape=(4,), kind="int")
WIDE = (VECTOR, PATCHES, KEPT)
REJECTED_EVERY = 5


def make_manifest(num_rows, *, changed=-1, shard_rows=1000):
    """``shard_rows`` samples a shard; the video of the row ``changed`` is another one."""
    rows = [
        dict.fromkeys(MANIFEST_SCHEMA.names)
        | {"shard": f"{i // shard_rows}.tar", "key": f"{i:04d}", "video_id": f"video{i}"}
        | {"uid": sample_uid(f"{i // shard_rows}.tar", f"{i:04d}"), "sha256": "b" if i == changed else "a"}
        for i in range(num_rows)
    ]
    table = pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA)
    return save_manifest(f"memory://{uuid.uuid4().hex}", table)


def make_spec(**changes):
    spec = CorpusSpec(model_id="m" * 16, preprocess_digest="p", columns=(VECTOR,), part_rows=4)
    return dataclasses.replace(spec, **changes)


def vectors_for(rows):
    vector = np.random.default_rng(0).standard_normal((1000, DIM))[rows]
    return (vector / np.linalg.norm(vector, axis=1, keepdims=True)).astype(np.float32)


def values_for(column, rows):
    if column.name == "vector":
        return vectors_for(rows)
    rng = np.random.default_rng(1)
    value = (
        rng.integers(-9, 70_000, (1000, *column.shape)) if column.kind == "int" else rng.random((1000, *column.shape))
    )
    return value[rows]


def write_part(url, spec, manifest, part):
    rows = np.arange(part.start, part.stop)
    ok = rows % REJECTED_EVERY != 0
    why = {name: [name] * int((~ok).sum()) for name in ("stage", "reason", "detail")}
    values = {column.name: values_for(column, rows[ok]) for column in spec.columns}
    written = Written(manifest_digest=manifest.digest)
    storage.write_bytes(
        part.quarantine_url(url), quarantine_bytes(spec, manifest.table.take(rows[~ok]), why, written=written)
    )
    storage.write_bytes(part.url(url), part_bytes(spec, manifest.table.take(rows[ok]), values, written=written))


def write_corpus(url, spec, manifest, *, may_shrink=False):
    parts = plan_parts(manifest, spec.digest, part_rows=spec.part_rows)
    for part in missing_parts(url, parts):
        write_part(url, spec, manifest, part)
    counts, written = Tally(parts, count_parts(url, parts)), Written(manifest_digest=manifest.digest)
    lineage = {"model": "somewhere", "manifest": manifest.root}
    terms = {"written": written, "lineage": lineage, "may_shrink": may_shrink}
    commit(url, spec=spec, manifest=manifest, parts=parts, counts=counts, **terms)
    return parts
