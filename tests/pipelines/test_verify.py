"""Damage to a corpus is found from storage alone."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import storage
from pipelines.columns import Column
from pipelines.parts import part_bytes, read_table
from pipelines.verify import verify_corpus
from tests.corpora import DIM, WIDE, make_manifest, make_spec, values_for, vectors_for, write_corpus


@pytest.fixture
def manifest():
    return make_manifest(10)


def test_a_sound_corpus_is_verified(manifest, tmp_path):
    write_corpus(str(tmp_path), make_spec(manifest), manifest)
    report = verify_corpus(str(tmp_path), manifest)
    assert report.problems == ()
    assert (report.num_samples, report.num_embedded, report.num_rejected) == (10, 8, 2)


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
    wide = make_spec(manifest, columns=(Column(name="vector", shape=(DIM + 1,)),))
    vectors = {"vector": np.ones((3, DIM + 1))}
    storage.write_bytes(parts[0].url(url), part_bytes(wide, manifest.table.slice(1, 3), vectors))


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
    storage.write_bytes(parts[0].url(url), part_bytes(spec, manifest.table.take(rows), values))


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
    url, spec = str(tmp_path), make_spec(manifest, columns=WIDE)
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
