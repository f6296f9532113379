"""Rows survive any cutting into shards and row groups, and can be had by number."""

import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import manifest_file
from pipelines.manifest import MANIFEST_SCHEMA, manifest_digest, save_manifest, shard_digest
from pipelines.manifest_file import writing
from pipelines.row_groups import RowGroups


def make_table(num_rows, *, seed=0, rows_a_shard=7):
    rng = np.random.default_rng(seed)
    rows = [
        {
            "uid": f"u{number}",
            "shard": f"{number // rows_a_shard:03d}.tar",
            "captions": ["word " * int(rng.integers(1, 30)) for _ in range(rng.integers(0, 4))],
            "status": "ok",
        }
        for number in range(num_rows)
    ]
    return pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA)


@pytest.fixture
def small_groups(monkeypatch):
    monkeypatch.setattr(manifest_file, "GROUP_ROWS", 10)
    monkeypatch.setattr(manifest_file, "GROUP_BYTES", 3500)


@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize("cuts", [[1], [5, 6, 40], list(range(1, 90))])
def test_bytes_do_not_depend_on_chunks(tmp_path, cuts):
    table, bounds = make_table(90), [0, *cuts, 90]
    chunked = pa.concat_tables([table.slice(a, b - a) for a, b in itertools.pairwise(bounds)])
    for name, rows in (("chunked", chunked), ("whole", table)):
        (tmp_path / name).mkdir()
        save_manifest(str(tmp_path / name), rows)
    assert (tmp_path / "chunked/manifest.parquet").read_bytes() == (tmp_path / "whole/manifest.parquet").read_bytes()
    assert pq.read_table(tmp_path / "whole/manifest.parquet").to_pylist() == table.to_pylist()


@pytest.mark.usefixtures("small_groups")
def test_row_groups_are_bounded_in_rows_and_bytes(tmp_path):
    table = make_table(200)
    save_manifest(str(tmp_path), table)
    groups = RowGroups(str(tmp_path / "manifest.parquet"))
    sizes = [groups.group(number).num_rows for number in range(groups.num_groups)]
    assert sum(sizes) == groups.num_rows == 200
    assert max(sizes) <= 10
    assert min(sizes) < 10, "no group was cut by its bytes, so that this test shows nothing"
    for number in range(groups.num_groups):
        letters = sum(len(caption) for row in groups.group(number).to_pylist() for caption in row["captions"])
        assert letters + 300 * sizes[number] <= 3500


@pytest.mark.usefixtures("small_groups")
def test_a_row_larger_than_a_group_has_its_own(tmp_path):
    rows = make_table(5).to_pylist()
    rows[2]["captions"] = ["x" * 10_000]
    save_manifest(str(tmp_path), pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA))
    groups = RowGroups(str(tmp_path / "manifest.parquet"))
    assert [groups.group(number).num_rows for number in range(groups.num_groups)] == [2, 1, 2]
    assert groups.slice(0, 5).to_pylist() == rows


def test_the_digest_names_shards_and_their_order():
    table = make_table(30)
    digests = [shard_digest(table.slice(start, 7)) for start in range(0, 30, 7)]
    assert manifest_digest(table) == manifest_file.join_digests(digests)
    swapped = pa.concat_tables([table.slice(7, 7), table.slice(0, 7), table.slice(14)])
    assert manifest_digest(swapped) != manifest_digest(table)


def fail_while_writing(url):
    with writing(url, MANIFEST_SCHEMA) as writer:
        writer.write(make_table(3), digest="any")
        raise RuntimeError


def test_what_fails_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError):
        fail_while_writing(str(tmp_path / "m"))
    assert list(tmp_path.iterdir()) == []
