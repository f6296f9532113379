"""A corpus is complete, exactly once, and of one kind, or it is refused."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import storage
from pipelines.corpus import commit, count_parts, missing_parts, read_committed, read_corpus, require_same
from pipelines.manifest import MANIFEST_SCHEMA, Manifest, manifest_digest, sample_uid
from pipelines.parts import CorpusSpec, part_bytes, plan_parts, quarantine_bytes, read_table
from pipelines.verify import verify_corpus

DIM = 8
REJECTED_EVERY = 5


def make_manifest(num_rows):
    rows = [
        dict.fromkeys(MANIFEST_SCHEMA.names)
        | {"uid": sample_uid("a.tar", f"{i:04d}"), "shard": "a.tar", "key": f"{i:04d}", "video_id": f"video{i}"}
        for i in range(num_rows)
    ]
    table = pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA)
    return Manifest(table=table, digest=manifest_digest(table), root="unused")


def make_spec(manifest, **changes):
    spec = CorpusSpec(model_id="m" * 16, manifest_digest=manifest.digest, preprocess_digest="p", dim=DIM, part_rows=4)
    return dataclasses.replace(spec, **changes)


def vectors_for(rows):
    vector = np.random.default_rng(0).standard_normal((1000, DIM))[rows]
    return (vector / np.linalg.norm(vector, axis=1, keepdims=True)).astype(np.float32)


def write_part(url, spec, manifest, part):
    rows = np.arange(part.start, part.stop)
    ok = rows % REJECTED_EVERY != 0
    why = {name: [name] * int((~ok).sum()) for name in ("stage", "reason", "detail")}
    vectors = {name: vectors_for(rows[ok]) for name in spec.vector_columns}
    storage.write_bytes(part.quarantine_url(url), quarantine_bytes(spec, manifest.table.take(rows[~ok]), why))
    storage.write_bytes(part.url(url), part_bytes(spec, manifest.table.take(rows[ok]), vectors))


def write_corpus(url, spec, manifest):
    parts = plan_parts(manifest, spec.model_id, part_rows=spec.part_rows)
    for part in parts:
        write_part(url, spec, manifest, part)
    commit(url, spec=spec, parts=parts, counts=count_parts(url, parts), lineage={"model": "somewhere"})
    return parts


@pytest.fixture
def manifest():
    return make_manifest(10)


@pytest.mark.parametrize("num_rows", [0, 1, 4, 5, 11])
def test_a_plan_covers_every_row_once_in_order(num_rows):
    parts = plan_parts(make_manifest(num_rows), "m", part_rows=4)
    assert [row for part in parts for row in range(part.start, part.stop)] == list(range(num_rows))
    assert all(len(part) == 4 for part in parts[:-1])
    assert len({part.name for part in parts}) == len(parts)


def test_names_depend_on_the_model_and_the_samples_alone(manifest):
    names = [part.name for part in plan_parts(manifest, "m", part_rows=4)]
    assert names == [part.name for part in plan_parts(make_manifest(10), "m", part_rows=4)]
    assert not set(names) & {part.name for part in plan_parts(manifest, "other", part_rows=4)}
    assert names[:2] == [part.name for part in plan_parts(make_manifest(9), "m", part_rows=4)][:2]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_corpus_reads_back_in_manifest_order(manifest, tmp_path, dtype):
    url, spec = str(tmp_path), make_spec(manifest, dtype=dtype, extra_columns=("pseudo_query",))
    write_corpus(url, spec, manifest)
    kept = [row for row in range(10) if row % REJECTED_EVERY]
    corpus = read_corpus(url)
    assert corpus.uids == [manifest.table.column("uid")[row].as_py() for row in kept]
    assert corpus.video_ids == [f"video{row}" for row in kept]
    np.testing.assert_allclose(corpus.vectors, vectors_for(kept), atol=1e-3 if dtype == "float16" else 0)
    np.testing.assert_array_equal(read_corpus(url, column="pseudo_query").vectors, corpus.vectors)
    assert corpus.meta["num_embedded"] == 8
    assert corpus.meta["rejected"] == {"reason": 2}
    with pytest.raises(ValueError, match="no column"):
        read_corpus(url, column="vector_unfused")


def test_parts_stay_plain_parquet(manifest, tmp_path):
    spec = make_spec(manifest)
    parts = write_corpus(str(tmp_path), spec, manifest)
    table = read_table(parts[0].url(str(tmp_path)))
    assert table.column_names == ["uid", "video_id", "shard", "key", "vector"]
    assert table.schema.field("vector").type == pa.list_(pa.float16(), DIM)
    assert table.schema.metadata[b"fpig.model_id"] == spec.model_id.encode()
    quarantine = read_table(parts[0].quarantine_url(str(tmp_path)))
    assert quarantine.column_names == ["uid", "shard", "key", "stage", "reason", "detail"]


def test_a_sound_corpus_is_verified(manifest, tmp_path):
    write_corpus(str(tmp_path), make_spec(manifest), manifest)
    report = verify_corpus(str(tmp_path), manifest)
    assert report.problems == ()
    assert (report.num_samples, report.num_embedded, report.num_rejected) == (10, 8, 2)


def test_a_corpus_in_a_bucket_is_the_same(manifest, s3_server):
    url, spec = f"{s3_server}/corpora/test", make_spec(manifest)
    parts = plan_parts(manifest, spec.model_id, part_rows=4)
    assert missing_parts(url, parts) == parts
    write_corpus(url, spec, manifest)
    assert missing_parts(url, parts) == []
    assert verify_corpus(url, manifest).problems == ()
    assert len(read_corpus(url).uids) == 8


def test_an_empty_manifest_gives_an_empty_corpus(tmp_path):
    manifest = make_manifest(0)
    write_corpus(str(tmp_path), make_spec(manifest), manifest)
    assert verify_corpus(str(tmp_path), manifest).problems == ()
    assert read_corpus(str(tmp_path)).vectors.shape == (0, DIM)


def test_what_is_missing_is_what_was_not_written(manifest, tmp_path):
    url, spec = str(tmp_path), make_spec(manifest)
    parts = plan_parts(manifest, spec.model_id, part_rows=4)
    assert missing_parts(url, parts) == parts
    write_part(url, spec, manifest, parts[1])
    assert missing_parts(url, parts) == [parts[0], parts[2]]
    with pytest.raises(ValueError, match="unfinished corpus of 1 parts"):
        read_committed(url)
    with pytest.raises(ValueError, match="not of this corpus"):
        missing_parts(url, plan_parts(manifest, "other", part_rows=4))


@pytest.mark.parametrize("committed", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        {"model_id": "other"},
        {"manifest_digest": "other"},
        {"part_rows": 5},
        {"dtype": "float32"},
        {"precision": "bf16"},
    ],
)
def test_another_kind_of_corpus_is_refused(manifest, tmp_path, change, committed):
    url, spec = str(tmp_path), make_spec(manifest)
    require_same(url, spec)
    if committed:
        write_corpus(url, spec, manifest)
    else:
        write_part(url, spec, manifest, plan_parts(manifest, spec.model_id, part_rows=4)[0])
    require_same(url, spec)
    with pytest.raises(ValueError, match=rf"{next(iter(change))}=.*this request has"):
        require_same(url, make_spec(manifest, **change))


def _damage_nan(url, spec, manifest, parts):
    sample = manifest.table.slice(1, 3)
    storage.write_bytes(parts[0].url(url), part_bytes(spec, sample, {"vector": np.full((3, DIM), np.nan)}))


def _damage_norm(url, spec, manifest, parts):
    sample = manifest.table.slice(1, 3)
    storage.write_bytes(parts[0].url(url), part_bytes(spec, sample, {"vector": 2 * vectors_for([1, 2, 3])}))


def _damage_lost_row(url, spec, manifest, parts):
    sample = manifest.table.slice(1, 2)
    storage.write_bytes(parts[0].url(url), part_bytes(spec, sample, {"vector": vectors_for([1, 2])}))


def _damage_twice(url, spec, manifest, parts):
    sample = manifest.table.slice(0, 4)
    storage.write_bytes(parts[0].url(url), part_bytes(spec, sample, {"vector": vectors_for([0, 1, 2, 3])}))


def _damage_missing(url, spec, manifest, parts):
    Path(parts[1].url(url)).unlink()


def _damage_foreign(url, spec, manifest, parts):
    storage.write_bytes(storage.join(url, "parts", "stray.parquet"), storage.read_bytes(parts[0].url(url)))


def _damage_metadata(url, spec, manifest, parts):
    other = make_spec(manifest, model_id="other")
    storage.write_bytes(
        parts[0].url(url), part_bytes(other, manifest.table.slice(1, 3), {"vector": vectors_for([1, 2, 3])})
    )


def _damage_truncated(url, spec, manifest, parts):
    file = Path(parts[0].url(url))
    file.write_bytes(file.read_bytes()[:-20])


def _damage_bytes(url, spec, manifest, parts):
    """Inside the compressed columns, where the file's footer still looks sound."""
    file = Path(parts[0].url(url))
    data = bytearray(file.read_bytes())
    data[4:200] = bytes(196)
    file.write_bytes(data)


def _damage_quarantine(url, spec, manifest, parts):
    Path(parts[1].quarantine_url(url)).write_bytes(b"")


def _damage_column(url, spec, manifest, parts):
    file = parts[0].url(url)
    pq.write_table(read_table(file).drop_columns(["uid"]), file)


def _damage_width(url, spec, manifest, parts):
    wide = make_spec(manifest, dim=DIM + 1)
    vectors = {"vector": np.ones((3, DIM + 1))}
    storage.write_bytes(parts[0].url(url), part_bytes(wide, manifest.table.slice(1, 3), vectors))


def _damage_null(url, spec, manifest, parts):
    file = parts[0].quarantine_url(url)
    table = read_table(file)
    pq.write_table(table.set_column(0, "uid", pa.nulls(len(table), pa.string())), file)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_damage_truncated, "cannot be read"),
        (_damage_bytes, "cannot be read"),
        (_damage_quarantine, "cannot be read"),
        (_damage_column, "has the columns video_id"),
        (_damage_width, "has the columns uid"),
        (_damage_null, "rows without uid"),
        (_damage_nan, "NaN"),
        (_damage_norm, "norm is off 1"),
        (_damage_lost_row, "neither embedded nor rejected"),
        (_damage_twice, "more than once"),
        (_damage_missing, "is missing"),
        (_damage_foreign, "not in the commit"),
        (_damage_metadata, "carries model_id='other'"),
    ],
)
def test_damage_is_found(manifest, tmp_path, damage, message):
    url, spec = str(tmp_path), make_spec(manifest)
    damage(url, spec, manifest, write_corpus(url, spec, manifest))
    assert any(message in problem for problem in verify_corpus(url, manifest).problems)


def test_another_manifest_is_found(manifest, tmp_path):
    write_corpus(str(tmp_path), make_spec(manifest), manifest)
    problems = verify_corpus(str(tmp_path), make_manifest(12)).problems
    assert any("the corpus is of manifest" in problem for problem in problems)


def test_an_edited_commit_is_refused(manifest, tmp_path):
    write_corpus(str(tmp_path), make_spec(manifest), manifest)
    marker = tmp_path / "_COMMITTED.json"
    meta = json.loads(marker.read_text())
    marker.write_text(json.dumps(meta | {"parts": meta["parts"][1:]}))
    with pytest.raises(ValueError, match="was changed"):
        read_corpus(str(tmp_path))
