"""Parts held as arrays are those of a slow walk over all rows, however the manifest is cut into row groups; their names
tell what they hold and not where it stands."""

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


def make_manifest(names, **changes):
    """One row for each (shard, key); ``changes`` are those of ``row_of`` by key."""
    rows = [row_of(name) | changes.get(name[1], {}) for name in names]
    return save_manifest(f"memory://{uuid.uuid4().hex}", pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA))


def row_of(name):
    """Some have no digest, some are segments, some have nulls."""
    number = int(name[1][3:] or 0)
    return {
        "uid": sample_uid(*name),
        "shard": name[0],
        "key": name[1],
        "video_id": f"vidéo{number}",
        "video_suffix": "mp4",
        "start_s": number / 3 if number % 4 == 0 else None,
        "video_offset": 512 * number,
        "video_bytes": number if number % 5 else None,
        "sha256": f"{number:064x}" if number % 3 else "",
        "status": "ok",
    }


NAMES = [(f"{number // 6}.tar", f"kéy{number}") for number in range(23)]


def cut_slowly(rows, part_rows):
    """Numbers of rows [start, stop): a part ends when it is full and where its shard does."""
    start = 0
    for row in range(1, len(rows) + 1):
        if row == len(rows) or row - start == part_rows or rows[row]["shard"] != rows[start]["shard"]:
            yield start, row
            start = row


@pytest.mark.parametrize("part_rows", [1, 4, 5, 6, 50])
@pytest.mark.parametrize("group_rows", [1, 5, 1000])
def test_parts_are_those_of_a_walk_over_all_rows(monkeypatch, group_rows, part_rows):
    monkeypatch.setattr(manifest_file, "GROUP_ROWS", group_rows)
    manifest = make_manifest(NAMES)
    rows = manifest.table.to_pylist()
    wanted = [
        Part(name=part_name("corpus", rows[start:stop]), start=start, stop=stop)
        for start, stop in cut_slowly(rows, part_rows)
    ]
    parts = plan_parts(manifest, "corpus", part_rows=part_rows)
    assert list(parts) == wanted
    chosen = parts.where(np.arange(len(parts)) % 2 == 0)
    assert chosen.num_samples == sum(map(len, wanted[::2]))
    assert [chosen.place(row) for row in range(23)] == [
        next((place for place, part in enumerate(wanted[::2]) if part.start == row), -1) for row in range(23)
    ]


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_batches_are_those_of_a_walk_over_all_parts(batch_size):
    parts = plan_parts(make_manifest(NAMES), "corpus", part_rows=4).where(np.arange(8) % 3 != 1)
    wanted = [
        (part, range(start, min(start + batch_size, part.stop)))
        for part in parts
        for start in range(part.start, part.stop, batch_size)
    ]
    assert [parts.batch(number, batch_size) for number in range(parts.num_batches(batch_size))] == wanted


def test_names_tell_what_parts_hold_and_not_where_it_stands():
    names = [part.name for part in plan_parts(make_manifest(NAMES), "corpus", part_rows=4)]
    assert len(set(names)) == len(names) == 8
    # A shard more in front, and one less behind: six rows are two parts.
    more = [("+.tar", f"kéy{100 + number}") for number in range(3)]
    grown = [part.name for part in plan_parts(make_manifest(more + NAMES[:18]), "corpus", part_rows=4)]
    assert grown[1:] == names[:6]
    assert not set(names) & {part.name for part in plan_parts(make_manifest(NAMES), "other", part_rows=4)}


@pytest.mark.parametrize(
    ("key", "change", "is_another"),
    [
        ("kéy1", {"sha256": "f" * 64}, True),
        ("kéy1", {"video_offset": 7}, False),  # the same bytes at another place
        ("kéy1", {"captions": ["other"]}, False),
        ("kéy0", {"video_offset": 7}, True),  # nothing else tells that they are the same
        ("kéy0", {"start_s": 1e-9}, True),
        ("kéy1", {"end_s": 0.0}, True),
        ("kéy1", {"video_id": "other"}, True),
        ("kéy1", {"status": "no_video"}, True),
    ],
)
def test_a_replaced_sample_makes_another_part(key, change, is_another):
    before, after = (plan_parts(make_manifest(NAMES, **changes), "corpus") for changes in ({}, {key: change}))
    assert (before.names != after.names).tolist() == [is_another, False, False, False]


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
