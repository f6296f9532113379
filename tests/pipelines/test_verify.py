"""Damage to a corpus is found from storage alone."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import storage
from pipelines.columns import Column
from pipelines.parts import Written, part_bytes, read_table
from pipelines.verify import verify_corpus
from tests.corpora import DIM, WIDE, make_manifest, make_spec, values_for, vectors_for, write_corpus

WRITTEN = Written(manifest_digest="some", code_revision="some", mlflow_run_id="some")


@pytest.fixture
def manifest():
    return make_manifest(10)


def test_a_sound_corpus_is_verified(manifest, tmp_path):
    write_corpus(str(tmp_path), make_spec(), manifest)
    report = verify_corpus(str(tmp_path), manifest)
    assert report.problems == ()
    assert (report.num_samples, report.num_embedded, report.num_rejected) == (10, 8, 2)
    assert (report.manifests, report.num_left_over) == ({manifest.digest: 3}, 0)


def put(file, spec, sample, vectors):
    storage.write_bytes(file, part_bytes(spec, sample, {"vector": vectors}, written=WRITTEN))


def _damage_nan(url, spec, manifest, parts):
    sample = manifest.table.slice(1, 3)
    put(parts[0].url(url), spec, sample, np.full((3, DIM), np.nan))


def _damage_norm(url, spec, manifest, parts):
    sample = manifest.table.slice(1, 3)
    put(parts[0].url(url), spec, sample, 2 * vectors_for([1, 2, 3]))


def _damage_lost_row(url, spec, manifest, parts):
    sample = manifest.table.slice(1, 2)
    put(parts[0].url(url), spec, sample, vectors_for([1, 2]))


def _damage_twice(url, spec, manifest, parts):
    sample = manifest.table.slice(0, 4)
    put(parts[0].url(url), spec, sample, vectors_for([0, 1, 2, 3]))


def _damage_missing(url, spec, manifest, parts):
    Path(parts[1].url(url)).unlink()


def _damage_lineage(url, spec, manifest, parts):
    file = parts[0].url(url)
    table = read_table(file)
    kept = {name: value for name, value in table.schema.metadata.items() if name != b"fpig.code_revision"}
    pq.write_table(table.replace_schema_metadata(kept), file)


def _damage_metadata(url, spec, manifest, parts):
    other = make_spec(model_id="other")
    storage.write_bytes(
        parts[0].url(url),
        part_bytes(other, manifest.table.slice(1, 3), {"vector": vectors_for([1, 2, 3])}, written=WRITTEN),
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
    wide = make_spec(columns=(Column(name="vector", shape=(DIM + 1,)),))
    vectors = {"vector": np.ones((3, DIM + 1))}
    storage.write_bytes(parts[0].url(url), part_bytes(wide, manifest.table.slice(1, 3), vectors, written=WRITTEN))


def _damage_null(url, spec, manifest, parts):
    file = parts[0].quarantine_url(url)
    table = read_table(file)
    pq.write_table(table.set_column(0, "uid", pa.nulls(len(table), pa.string())), file)


def _damage_shape(url, spec, manifest, parts):
    file = parts[0].url(url)
    table = read_table(file)
    field = table.schema.field("patch_vectors").with_metadata({"fpig.shape": "[2, 3, 5]"})
    pq.write_table(table.cast(table.schema.set(table.schema.get_field_index(field.name), field)), file)


def _damage_column_nan(url, spec, manifest, parts):
    rows = np.arange(1, 4)
    values = {column.name: values_for(column, rows) for column in spec.columns}
    values["patch_vectors"][2, 1, 1, 3] = np.nan
    storage.write_bytes(parts[0].url(url), part_bytes(spec, manifest.table.take(rows), values, written=WRITTEN))


def _damage_inner_null(url, spec, manifest, parts):
    file = parts[0].url(url)
    table = read_table(file)
    at = table.schema.get_field_index("selected_tokens")
    kept = table.column(at).to_pylist()
    kept[1][2] = None
    pq.write_table(table.set_column(at, table.schema.field(at), pa.array(kept, pa.list_(pa.int32(), 4))), file)


def _damage_commit(url, spec, manifest, parts):
    marker = Path(url) / "_COMMITTED.json"
    meta = json.loads(marker.read_text())
    marker.write_text(json.dumps(meta | {"part_embedded": [2, 4, 2]}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_damage_shape, "gives patch_vectors another shape"),
        (_damage_column_nan, "patch_vectors: NaN"),
        (_damage_inner_null, "rows without selected_tokens"),
        (_damage_commit, "part_embedded"),
    ],
)
def test_damage_of_further_columns_is_found(manifest, tmp_path, damage, message):
    url, spec = str(tmp_path), make_spec(columns=WIDE)
    damage(url, spec, manifest, write_corpus(url, spec, manifest))
    assert any(message in problem for problem in verify_corpus(url, manifest).problems)


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
        (_damage_lineage, "does not tell its code_revision"),
        (_damage_metadata, "carries model_id='other'"),
    ],
)
def test_damage_is_found(manifest, tmp_path, damage, message):
    url, spec = str(tmp_path), make_spec()
    damage(url, spec, manifest, write_corpus(url, spec, manifest))
    assert any(message in problem for problem in verify_corpus(url, manifest).problems)


def test_another_manifest_is_found(manifest, tmp_path):
    write_corpus(str(tmp_path), make_spec(), manifest)
    problems = verify_corpus(str(tmp_path), make_manifest(12)).problems
    assert any("the corpus is of manifest" in problem for problem in problems)


def test_what_the_commit_leaves_out_is_counted_and_no_damage(manifest, tmp_path):
    parts = write_corpus(str(tmp_path), make_spec(), manifest)
    storage.write_bytes(str(tmp_path / "parts" / "stray.parquet"), storage.read_bytes(parts[0].url(str(tmp_path))))
    report = verify_corpus(str(tmp_path), manifest)
    assert (report.problems, report.num_left_over) == ((), 1)


def test_a_video_that_was_replaced_since_is_found(tmp_path):
    """The manifest was made anew, and even its digest is told of the corpus: the name of the part is another one."""
    before, after = make_manifest(10), make_manifest(10, changed=5)
    write_corpus(str(tmp_path), make_spec(), before)
    marker = tmp_path / "_COMMITTED.json"
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"manifest_digest": after.digest}))
    assert any("is missing" in problem for problem in verify_corpus(str(tmp_path), after).problems)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_wrong_scales_and_lengths_are_found_in_every_dtype(manifest, tmp_path, dtype):
    url, spec = str(tmp_path), make_spec(dtype=dtype)
    parts = write_corpus(url, spec, manifest)
    assert verify_corpus(url, manifest).problems == ()
    _damage_norm(url, spec, manifest, parts)
    assert any("norm is off 1" in problem for problem in verify_corpus(url, manifest).problems)
