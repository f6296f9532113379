"""Parts held as arrays are those of a slow walk over all rows, however the manifest is cut into row groups."""

import uuid

import numpy as np
import pyarrow as pa
import pytest

from pipelines import manifest_file, part_files, storage
from pipelines.listing import found_below
from pipelines.manifest import MANIFEST_SCHEMA, sample_uid, save_manifest
from pipelines.object_store import ObjectStore, connect
from pipelines.part_files import find_parts
from pipelines.part_plan import Part, part_name, plan_parts
from pipelines.verify import repeated_samples


def make_manifest(names):
    """One row for each (shard, key)."""
    rows = [{"uid": sample_uid(*name), "shard": name[0], "key": name[1], "status": "ok"} for name in names]
    return save_manifest(f"memory://{uuid.uuid4().hex}", pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA))


NAMES = [(f"{number // 6}.tar", f"kéy{number}") for number in range(23)]


@pytest.mark.parametrize("part_rows", [1, 4, 7, 23, 50])
@pytest.mark.parametrize("group_rows", [1, 5, 1000])
def test_parts_are_those_of_a_walk_over_all_rows(monkeypatch, group_rows, part_rows):
    monkeypatch.setattr(manifest_file, "GROUP_ROWS", group_rows)
    manifest = make_manifest(NAMES)
    uids = [sample_uid(*name) for name in NAMES]
    wanted = [
        Part(name=part_name("model", uids[start : start + part_rows]), start=start, stop=min(start + part_rows, 23))
        for start in range(0, 23, part_rows)
    ]
    parts = plan_parts(manifest, "model", part_rows=part_rows)
    assert list(parts) == wanted
    chosen = parts.where(np.arange(len(parts)) % 2 == 0)
    rows = [row for part in wanted[::2] for row in range(part.start, part.stop)]
    assert chosen.num_samples == len(rows)
    assert chosen.rows(np.arange(len(rows))).tolist() == rows
    assert [chosen.at(row) for row in range(23)] == [
        next((part for part in wanted[::2] if part.start == row), None) for row in range(23)
    ]


def test_parts_are_found_page_by_page(monkeypatch, tmp_path):
    monkeypatch.setattr(part_files, "_LISTED_AT_ONCE", 2)
    names = np.array([b"d", b"a", b"c", b"b"])
    for name in ("a", "b", "e", "aa", "ü"):
        storage.write_bytes(str(tmp_path / f"parts/{name}.parquet"), b"")
    is_there, foreign = find_parts(str(tmp_path), names)
    assert is_there.tolist() == [False, True, False, True]
    assert foreign.count == 3
    assert find_parts(str(tmp_path), names[:0])[1].count == 5


def test_all_pages_of_a_listing_are_read(monkeypatch):
    async def answer(store, method, *, Bucket, Prefix, ContinuationToken="0"):
        assert (method, Bucket, Prefix) == ("list_objects_v2", "bucket", "folder/")
        page = int(ContinuationToken)
        info = {"Key": f"folder/{page}.tar", "Size": page, "ETag": "x"}
        return {"Contents": [info], "IsTruncated": page < 2, "NextContinuationToken": str(page + 1)}

    monkeypatch.setattr(ObjectStore, "_call_s3", answer)
    found = list(found_below(connect(), "bucket/folder/"))
    assert [(info["name"], info["size"]) for info in found] == [(f"bucket/folder/{n}.tar", n) for n in range(3)]


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (NAMES, None),
        ([*NAMES, NAMES[-1]], "1 samples stand in the manifest more than once"),
        ([*NAMES, NAMES[0]], "1 shards of the manifest are in pieces"),
    ],
)
def test_samples_that_stand_twice_are_found(monkeypatch, names, problem):
    monkeypatch.setattr(manifest_file, "GROUP_ROWS", 5)
    found = repeated_samples(make_manifest(names))
    assert found == [] if problem is None else (len(found) == 1 and found[0].startswith(problem))


def test_uids_that_are_not_of_shard_and_key_are_found():
    row = {"uid": sample_uid("a.tar", "0"), "shard": "a.tar", "key": "1", "status": "ok"}
    table = pa.Table.from_pylist([row], schema=MANIFEST_SCHEMA)
    (problem,) = repeated_samples(save_manifest(f"memory://{uuid.uuid4().hex}", table))
    assert "not those of shard and key" in problem
