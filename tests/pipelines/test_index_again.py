"""Indexing again reads what has changed, and gives what indexing anew would give."""

import os
import uuid

import pytest

from pipelines import indexing, storage
from pipelines.indexing import IndexSettings, index_shards
from pipelines.manifest import load_manifest
from pipelines.shard_state import STATE_NAME
from tests.pipelines.test_tarwalk import make_tar

ANEW = IndexSettings(incremental=False)


def tar(name, *, seed=0):
    return make_tar([(f"{name}{i}.{suffix}", bytes([seed + i]) * 900) for i in range(3) for suffix in ("mp4", "txt")])


@pytest.fixture
def read(monkeypatch):
    """Names of the shards that are read."""
    names, real = [], indexing.index_shard

    def index_shard(root, shard, *args, **options):
        names.append(shard)
        return real(root, shard, *args, **options)

    monkeypatch.setattr(indexing, "index_shard", index_shard)
    return names


def index_again(folder, read, settings=IndexSettings()):
    """(report, shards that were read), after proving them equal to an index from scratch."""
    read.clear()
    report = index_shards(str(folder), settings)
    names, data = sorted(read), (folder / "manifest.parquet").read_bytes()
    anew = index_shards(str(folder), ANEW)
    assert (folder / "manifest.parquet").read_bytes() == data
    assert (anew.digest, anew.census.as_dict()) == (report.digest, report.census.as_dict())
    assert (anew.bad_shards, anew.notes, anew.num_ignored) == (report.bad_shards, report.notes, report.num_ignored)
    assert report.num_read == len(names)
    return report, names


def test_only_what_has_changed_is_read(tmp_path, read):
    for name in "abd":
        (tmp_path / f"{name}.tar").write_bytes(tar(name))
    (tmp_path / "e.tar").write_bytes(tar("e")[:-1200])
    (tmp_path / "f.tar").write_bytes(make_tar([("F.mp4", b"1"), ("f.txt", b"2"), ("x", b"3"), ("F.txt", b"4")]))
    first, names = index_again(tmp_path, read)
    assert names == ["a.tar", "b.tar", "d.tar", "e.tar", "f.tar"]

    second, names = index_again(tmp_path, read)
    assert (names, second.digest, second.num_read) == ([], first.digest, 0)
    assert [bad.shard for bad in second.bad_shards] == ["e.tar"]
    assert {note.code for note in second.notes} == {"scattered", "mixed_case"}

    (tmp_path / "b.tar").write_bytes(tar("b", seed=7))
    (tmp_path / "c.tar").write_bytes(tar("c"))
    (tmp_path / "d.tar").unlink()
    third, names = index_again(tmp_path, read)
    assert names == ["b.tar", "c.tar"]
    assert third.num_removed == 1
    assert third.digest != first.digest
    keys = load_manifest(str(tmp_path)).table.column("shard").unique().to_pylist()
    assert keys == ["a.tar", "b.tar", "c.tar", "e.tar", "f.tar"]

    (tmp_path / "c.tar").unlink()
    (tmp_path / "b.tar").write_bytes(tar("b"))
    (tmp_path / "d.tar").write_bytes(tar("d"))
    assert index_again(tmp_path, read)[0].digest == first.digest


def test_a_touched_shard_is_read_and_keeps_the_digest(tmp_path, read):
    for name in "ab":
        (tmp_path / f"{name}.tar").write_bytes(tar(name))
    digest = index_shards(str(tmp_path)).digest
    os.utime(tmp_path / "a.tar", (1, 1))
    report, names = index_again(tmp_path, read)
    assert (report.digest, names) == (digest, ["a.tar"])


def test_a_removed_shard_alone_changes_the_manifest(tmp_path, read):
    for name in "ab":
        (tmp_path / f"{name}.tar").write_bytes(tar(name))
    index_shards(str(tmp_path))
    (tmp_path / "b.tar").unlink()
    report, names = index_again(tmp_path, read)
    assert (names, report.num_samples, report.num_removed) == ([], 3, 1)


@pytest.mark.parametrize("loss", ["state", "manifest", "other manifest", "junk"])
def test_a_state_that_does_not_fit_is_not_used(tmp_path, read, loss):
    (tmp_path / "a.tar").write_bytes(tar("a"))
    index_shards(str(tmp_path))
    state = tmp_path / STATE_NAME
    if loss == "state":
        state.unlink()
    elif loss == "manifest":
        (tmp_path / "manifest.parquet").unlink()
    elif loss == "junk":
        state.write_bytes(b"junk")
    else:
        old = state.read_bytes()
        (tmp_path / "a.tar").write_bytes(tar("a", seed=5))
        index_shards(str(tmp_path))
        state.write_bytes(old)
    assert index_again(tmp_path, read)[1] == ["a.tar"]


def test_another_way_of_reading_reads_again(tmp_path, read):
    (tmp_path / "a.tar").write_bytes(tar("a"))
    index_shards(str(tmp_path), IndexSettings(digest="none"))
    assert index_again(tmp_path, read)[1] == ["a.tar"]


def test_a_store_tells_changes_by_etag(s3_server, read):
    url = storage.join(s3_server, uuid.uuid4().hex)
    for name in "ab":
        storage.write_bytes(storage.join(url, f"{name}.tar"), tar(name))
    index_shards(url)
    storage.write_bytes(storage.join(url, "b.tar"), tar("b", seed=9))
    storage.write_bytes(storage.join(url, "a.tar"), tar("a"))
    read.clear()
    digest = index_shards(url).digest
    assert read == ["b.tar"]
    assert index_shards(url, ANEW).digest == digest


def test_a_store_without_times_is_read_each_time(read):
    url = f"memory://{uuid.uuid4().hex}"
    storage.write_bytes(storage.join(url, "a.tar"), tar("a"))
    assert [index_shards(url).num_read for _ in range(2)] == [1, 1]
