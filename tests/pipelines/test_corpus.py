"""A corpus is complete and exactly once, and its readers give what was stored."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines import parts as parts_module
from pipelines import storage
from pipelines.columns import Column
from pipelines.corpus import read_columns, read_committed, read_corpus, read_quarantine
from pipelines.part_files import Tally, missing_parts, remove_parts
from pipelines.part_plan import plan_parts
from pipelines.part_vectors import iter_vectors
from pipelines.parts import Written, part_bytes, read_table
from pipelines.verify import verify_corpus
from tests.corpora import (
    DIM,
    KEPT,
    PATCHES,
    REJECTED_EVERY,
    VECTOR,
    WIDE,
    make_manifest,
    make_spec,
    values_for,
    vectors_for,
    write_corpus,
    write_part,
)


@pytest.fixture
def manifest():
    return make_manifest(10)


@pytest.mark.parametrize("num_rows", [0, 1, 4, 5, 11])
def test_a_plan_covers_every_row_once_in_order(num_rows):
    parts = plan_parts(make_manifest(num_rows), "m", part_rows=4)
    assert [row for part in parts for row in range(part.start, part.stop)] == list(range(num_rows))
    assert all(len(part) == 4 for part in parts[:-1])
    assert len({part.name for part in parts}) == len(parts)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_corpus_reads_back_in_manifest_order(manifest, tmp_path, dtype):
    url, spec = str(tmp_path), make_spec(dtype=dtype)
    write_corpus(url, spec, manifest)
    kept = [row for row in range(10) if row % REJECTED_EVERY]
    corpus = read_corpus(url)
    assert corpus.uids == [manifest.table.column("uid")[row].as_py() for row in kept]
    assert corpus.video_ids == [f"video{row}" for row in kept]
    np.testing.assert_allclose(corpus.vectors, vectors_for(kept), atol=1e-3 if dtype == "float16" else 0)
    assert corpus.meta["num_embedded"] == 8
    assert corpus.meta["rejected"] == {"reason": 2}


@pytest.mark.parametrize("group_bytes", [1, 200, 1 << 20])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_columns_of_any_shape_read_back_as_they_are_stored(manifest, tmp_path, monkeypatch, dtype, group_bytes):
    """However a part is cut into row groups, and whether it is fetched at once or in ranges."""
    monkeypatch.setattr(parts_module, "GROUP_BYTES", group_bytes)
    url, spec = str(tmp_path), make_spec(dtype=dtype, columns=WIDE)
    write_corpus(url, spec, manifest)
    kept = np.array([row for row in range(10) if row % REJECTED_EVERY])
    for rows in (None, np.array([6, 0, 7, 0]), np.array([], np.int64)):
        found = read_columns(url, ["selected_tokens", "patch_vectors"], rows=rows)
        chosen = kept if rows is None else kept[rows]
        assert found["selected_tokens"].dtype == np.int32
        np.testing.assert_array_equal(found["selected_tokens"], values_for(KEPT, chosen))
        np.testing.assert_array_equal(found["patch_vectors"], values_for(PATCHES, chosen).astype(dtype), strict=True)
    np.testing.assert_array_equal(read_corpus(url).vectors, vectors_for(kept).astype(dtype).astype(np.float32))
    assert verify_corpus(url, manifest).problems == ()


def test_only_the_parts_that_hold_the_rows_are_read(manifest, tmp_path):
    url, spec = str(tmp_path), make_spec(columns=WIDE)
    parts = write_corpus(url, spec, manifest)
    Path(parts[0].url(url)).unlink()
    assert len(read_columns(url, ["patch_vectors"], rows=np.array([3, 4]))["patch_vectors"]) == 2
    with pytest.raises(ValueError, match="is gone: the corpus has changed"):
        read_columns(url, ["patch_vectors"])


def test_columns_that_are_not_there_are_refused(manifest, tmp_path):
    url, spec = str(tmp_path), make_spec(columns=WIDE)
    parts = write_corpus(url, spec, manifest)
    with pytest.raises(ValueError, match=r"no column 'frame_vectors', only vector float\[8\], .* --extra-columns"):
        read_columns(url, ["frame_vectors"])
    with pytest.raises(ValueError, match="wanted one with a vector a video"):
        read_corpus(url, column="patch_vectors")
    with pytest.raises(ValueError, match=r"wanted 0…7"):
        read_columns(url, ["vector"], rows=np.array([8]))
    short = {column.name: values_for(column, [1, 2]) for column in WIDE}
    written = Written(manifest_digest=manifest.digest)
    storage.write_bytes(parts[0].url(url), part_bytes(spec, manifest.table.slice(1, 2), short, written=written))
    with pytest.raises(ValueError, match="not as long as it was"):
        read_columns(url, ["vector"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": (PATCHES, VECTOR)}, "vector float"),
        ({"columns": (VECTOR, PATCHES, PATCHES)}, "each once"),
        ({"columns": ()}, "vector float"),
        ({"columns": (VECTOR, Column(name="big", shape=(1 << 20,))), "part_rows": 1025}, "part_rows of at most 1023"),
    ],
)
def test_a_spec_that_cannot_be_is_refused(manifest, change, message):
    with pytest.raises(ValueError, match=message):
        make_spec(**change)


def test_parts_stay_plain_parquet(manifest, tmp_path):
    spec = make_spec(columns=WIDE)
    parts = write_corpus(str(tmp_path), spec, manifest)
    table = read_table(parts[0].url(str(tmp_path)))
    assert table.column_names == ["uid", "video_id", "shard", "key", "vector", "patch_vectors", "selected_tokens"]
    assert table.schema.field("patch_vectors").type == pa.list_(pa.float16(), 30)
    assert table.schema.field("patch_vectors").metadata[b"fpig.shape"] == b"[3, 2, 5]"
    assert table.schema.field("selected_tokens").type == pa.list_(pa.int32(), 4)
    assert table.schema.field("vector").type == pa.list_(pa.float16(), DIM)
    assert table.schema.metadata[b"fpig.model_id"] == spec.model_id.encode()
    quarantine = read_table(parts[0].quarantine_url(str(tmp_path)))
    assert quarantine.column_names == ["uid", "shard", "key", "stage", "reason", "detail"]


def test_a_corpus_in_a_bucket_is_the_same(manifest, s3_server):
    url, spec = f"{s3_server}/corpora/test", make_spec()
    parts = plan_parts(manifest, spec.digest, part_rows=4)
    assert list(missing_parts(url, parts)) == list(parts)
    write_corpus(url, spec, manifest)
    assert list(missing_parts(url, parts)) == []
    assert verify_corpus(url, manifest).problems == ()
    assert len(read_corpus(url).uids) == 8


def test_an_empty_manifest_gives_an_empty_corpus(tmp_path):
    manifest = make_manifest(0)
    write_corpus(str(tmp_path), make_spec(), manifest)
    assert verify_corpus(str(tmp_path), manifest).problems == ()
    assert read_corpus(str(tmp_path)).vectors.shape == (0, DIM)


def test_what_is_missing_is_what_was_not_written(manifest, tmp_path):
    url, spec = str(tmp_path), make_spec()
    parts = plan_parts(manifest, spec.digest, part_rows=4)
    assert list(missing_parts(url, parts)) == list(parts)
    write_part(url, spec, manifest, parts[1])
    assert list(missing_parts(url, parts)) == [parts[0], parts[2]]
    with pytest.raises(ValueError, match="unfinished corpus of 1 parts"):
        read_committed(url)


def test_counts_of_an_earlier_commit_are_taken_only_as_a_whole(tmp_path):
    small, large = make_manifest(10, shard_rows=5), make_manifest(17, shard_rows=5)
    write_corpus(str(tmp_path), make_spec(), small)
    meta = read_committed(str(tmp_path))
    parts = plan_parts(large, make_spec().digest, part_rows=4)
    tally = Tally(parts)
    tally.add_committed(meta)
    assert [part.start for part in tally.unknown] == [10, 14, 15]
    assert tally.rejected.total() == 2
    for other in (parts.where(parts.starts > 0), parts.where(parts.starts < 0)):
        tally = Tally(other)
        tally.add_committed(meta)
        assert len(tally.unknown) == len(other)


def test_what_left_the_corpus_is_deleted_and_nothing_else(manifest, tmp_path):
    url, spec = str(tmp_path), make_spec()
    parts = write_corpus(url, spec, manifest)
    names = [f"{part.name}.parquet" for part in parts]
    for folder in ("parts", "quarantine"):
        storage.write_bytes(f"{url}/{folder}/stray.parquet", b"")
    remove_parts(url, keep=parts.names)
    remove_parts(url, keep=parts.names)
    assert {
        folder: sorted(file.name for file in (tmp_path / folder).iterdir()) for folder in ("parts", "quarantine")
    } == {folder: sorted(names) for folder in ("parts", "quarantine")}
    assert verify_corpus(url, manifest).problems == ()


def test_rejected_samples_are_those_of_the_commit(manifest, tmp_path):
    write_corpus(str(tmp_path), make_spec(), manifest)
    storage.write_bytes(str(tmp_path / "quarantine" / "stray.parquet"), b"no Parquet at all")
    rejected = read_quarantine(str(tmp_path))
    assert rejected.column("key").to_pylist() == ["0000", "0005"]
    assert rejected.column_names == ["uid", "shard", "key", "stage", "reason", "detail"]


@pytest.mark.parametrize("columns", [(VECTOR,), WIDE])
def test_int8_gives_vectors_back_with_their_lengths(manifest, tmp_path, columns):
    url, spec = str(tmp_path), make_spec(dtype="int8", columns=columns)
    parts = write_corpus(url, spec, manifest)
    kept = [row for row in range(10) if row % REJECTED_EVERY]
    found, wanted = read_corpus(url).vectors, vectors_for(kept)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert ((found * wanted).sum(axis=1) > 0.9999).all()
    np.testing.assert_array_equal(np.concatenate(list(iter_vectors(url, read_committed(url)))), found)
    table = read_table(parts[0].url(url))
    assert table.schema.field("vector").type == pa.list_(pa.int8(), DIM)
    assert table.schema.field("vector_scale").type == pa.float32()
    for column in columns[1:]:
        values = read_columns(url, [column.name])[column.name]
        assert values.dtype == (np.float32 if column.kind == "float" else np.int32)
        np.testing.assert_allclose(values, values_for(column, kept), atol=0.005)
    assert verify_corpus(url, manifest).problems == ()


def test_an_edited_commit_is_refused(manifest, tmp_path):
    write_corpus(str(tmp_path), make_spec(), manifest)
    marker = tmp_path / "_COMMITTED.json"
    meta = json.loads(marker.read_text())
    marker.write_text(json.dumps(meta | {"parts": meta["parts"][1:]}))
    with pytest.raises(ValueError, match="was changed"):
        read_corpus(str(tmp_path))
