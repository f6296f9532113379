"""Rows by number are those of the whole table, for little memory, and never those of another manifest."""

import os
import pickle

import numpy as np
import pyarrow as pa
import pytest

from pipelines import manifest_file
from pipelines.manifest import MANIFEST_SCHEMA, Manifest, load_manifest, save_manifest
from pipelines.row_groups import RowGroups

NUM_ROWS = 150


def make_table(*, seed=0, num_rows=NUM_ROWS):
    rng = np.random.default_rng(seed)
    rows = [
        {
            "uid": f"u{seed}-{number}",
            "shard": f"{number // 7:03d}.tar",
            "captions": ["word"] * int(rng.integers(0, 3)),
            "status": str(rng.choice(["ok", "ok", "bad_json"])),
        }
        for number in range(num_rows)
    ]
    return pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA)


@pytest.fixture
def manifest(tmp_path, monkeypatch) -> Manifest:
    monkeypatch.setattr(manifest_file, "GROUP_ROWS", 10)
    return save_manifest(str(tmp_path), make_table())


@pytest.fixture
def read(monkeypatch):
    """Numbers of the row groups that are read."""
    numbers, real = [], RowGroups._read

    def count(self, number, columns):
        numbers.append(number)
        return real(self, number, columns)

    monkeypatch.setattr(RowGroups, "_read", count)
    return numbers


@pytest.mark.parametrize("cache_bytes", [0, 3000, 1 << 30])
@pytest.mark.parametrize("columns", [None, ["uid"], ["captions", "uid"]])
def test_rows_by_number_are_those_of_the_table(manifest, cache_bytes, columns):
    rng, table = np.random.default_rng(1), make_table()
    rows = (table if columns is None else table.select(columns)).to_pylist()
    groups = RowGroups(manifest.url, cache_bytes=cache_bytes)
    assert groups.num_groups == 15
    for _ in range(20):
        numbers = rng.integers(0, NUM_ROWS, rng.integers(0, 40))
        assert groups.take(numbers, columns=columns).to_pylist() == [rows[number] for number in numbers]
        start, stop = sorted(rng.integers(0, NUM_ROWS + 1, 2).tolist())
        assert groups.slice(start, stop, columns=columns).to_pylist() == rows[start:stop]
    assert groups.slice(140, 999, columns=columns).to_pylist() == rows[140:]
    assert groups.slice(20, 10, columns=columns).to_pylist() == []


def test_captioned_samples_are_found_by_their_number(manifest):
    rows = make_table().to_pylist()
    captioned = [number for number, row in enumerate(rows) if row["status"] == "ok" and row["captions"]]
    assert manifest.num_captioned == len(captioned) > 20
    assert manifest.num_ok == sum(row["status"] == "ok" for row in rows)
    numbers = np.random.default_rng(2).permutation(len(captioned))
    assert manifest.take_captioned(numbers).to_pylist() == [rows[captioned[number]] for number in numbers]
    assert manifest.take_captioned([]).to_pylist() == []


def test_captioned_rows_take_one_look_at_each_row_group(manifest, read):
    groups = RowGroups(manifest.url, cache_bytes=0)
    read.clear()
    groups.take_captioned(np.random.default_rng(3).permutation(groups.num_captioned))
    assert sorted(read) == list(range(groups.num_groups))


def test_all_rows_come_in_pieces(manifest):
    pieces = list(manifest.batches(["uid", "status"]))
    assert len(pieces) == 15
    assert pa.concat_tables(pieces).equals(make_table().select(["uid", "status"]))
    assert manifest.table.to_pylist() == make_table().to_pylist()


def test_only_the_row_groups_that_are_needed_are_read(manifest, read):
    groups = RowGroups(manifest.url)
    groups.take([31, 39, 7, 33])
    assert sorted(read) == [0, 3]
    groups.slice(30, 40)
    assert sorted(read) == [0, 3]
    groups.slice(35, 45)
    assert sorted(read) == [0, 3, 4]


def test_the_cache_is_bounded(manifest, read):
    one = RowGroups(manifest.url).group(0).nbytes
    groups = RowGroups(manifest.url, cache_bytes=int(2.5 * one))
    read.clear()
    for number in (0, 1, 0, 2, 0, 3, 0):
        groups.group(number)
    assert read == [0, 1, 2, 3]
    groups.group(1)
    assert read[-1] == 1


def test_a_manifest_travels_as_its_place(manifest):
    data = pickle.dumps(manifest)
    assert len(data) < 1000
    again = pickle.loads(data)  # noqa: S301
    assert again == manifest
    assert again.take([5]).to_pylist() == make_table().slice(5, 1).to_pylist()


def test_another_manifest_in_its_place_is_refused(manifest, tmp_path):
    groups = RowGroups(manifest.url)
    groups.group(0)
    save_manifest(str(tmp_path), make_table(seed=1))
    os.utime(manifest.url, (1, 1))
    assert groups.group(0).num_rows == 10
    for _ in range(3):
        with pytest.raises(ValueError, match="anew"):
            groups.group(1)
    other = Manifest(url=manifest.url, digest="0" * 64, root=manifest.root)
    with pytest.raises(ValueError, match="anew"):
        other.take([0])
    assert load_manifest(str(tmp_path)).table.to_pylist() == make_table(seed=1).to_pylist()


def test_the_same_manifest_written_again_is_read_on(manifest, tmp_path):
    groups = RowGroups(manifest.url)
    save_manifest(str(tmp_path), make_table())
    os.utime(manifest.url, (1, 1))
    assert groups.slice(0, NUM_ROWS).to_pylist() == make_table().to_pylist()


def test_an_empty_manifest_has_no_rows(tmp_path):
    manifest = save_manifest(str(tmp_path), MANIFEST_SCHEMA.empty_table())
    assert (manifest.num_rows, manifest.num_ok, manifest.num_captioned) == (0, 0, 0)
    assert manifest.slice(0, 5).num_rows == manifest.take([]).num_rows == manifest.table.num_rows == 0
    assert RowGroups(manifest.url).num_groups == 0
