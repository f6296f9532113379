import errno
import os
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import storage


@pytest.fixture(params=["path", "file", "memory", "s3"])
def folder(request, tmp_path):
    if request.param == "s3":
        return storage.join(request.getfixturevalue("s3_server"), uuid.uuid4().hex)
    return {
        "path": str(tmp_path / "set"),
        "file": f"file://{tmp_path}/set",
        "memory": f"memory://{uuid.uuid4().hex}/set",
    }[request.param]


def test_what_is_written_is_read_listed_and_measured(folder):
    urls = [storage.join(folder, name) for name in ("b.tar", "a/c.tar", "a/d.txt")]
    for number, url in enumerate(urls):
        storage.write_bytes(url, bytes(range(number + 5)))
    assert storage.read_bytes(urls[0]) == bytes(range(5))
    assert storage.size(urls[2]) == 7
    assert storage.exists(urls[1])
    assert not storage.exists(storage.join(folder, "none"))
    assert storage.list_files(folder) == sorted(urls)
    assert storage.list_files(folder, suffix=".tar") == sorted(urls[:2])
    assert {url: size for url, (size, _) in storage.list_stamps(folder).items()} == {
        url: number + 5 for number, url in enumerate(urls)
    }
    assert storage.list_files(storage.join(folder, "missing")) == []


def test_ranges_equal_slices(folder):
    url, data = storage.join(folder, "x"), os.urandom(1000)
    storage.write_bytes(url, data)
    for start, length in [
        (0, 10),
        (990, 10),
        (5, 0),
        (0, None),
        (17, None),
        (0, 1000),
        (995, 20),
        (1000, 1),
        (2000, 9),
    ]:
        stop = None if length is None else start + length
        assert storage.read_bytes(url, start=start, length=length) == data[start:stop]
    assert b"".join(storage.read_chunks(url, chunk_bytes=77)) == data


def test_upload_equals_write(folder, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(os.urandom(5000))
    storage.upload(source, storage.join(folder, "deep/x"))
    assert storage.read_bytes(storage.join(folder, "deep/x")) == source.read_bytes()


@pytest.mark.parametrize("num_bytes", [0, 5000, 6 << 20])
def test_a_copy_equals_its_source(folder, tmp_path, monkeypatch, num_bytes):
    monkeypatch.setattr("s3fs.core.MANAGED_COPY_THRESHOLD", 5 << 20)
    data = os.urandom(num_bytes)
    for source in (storage.join(folder, "a/source"), str(tmp_path / "elsewhere")):
        storage.write_bytes(source, data)
        storage.copy(source, storage.join(folder, "deep/copy"))
        assert storage.read_bytes(storage.join(folder, "deep/copy")) == data
        storage.remove(storage.join(folder, "deep/copy"))


def test_a_failed_write_leaves_the_old_object_and_no_draft(tmp_path, monkeypatch):
    url = str(tmp_path / "x")
    storage.write_bytes(url, b"old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "disk full")))
    with pytest.raises(OSError, match="disk full"):
        storage.write_bytes(url, b"new")
    assert storage.read_bytes(url) == b"old"
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize(
    "url", ["pipe:cat /etc/passwd", "http://host/x", "simplecache::s3://b/k", "s3:b/k", "", "gs://b/k", "a\0b"]
)
def test_other_locations_are_refused(url):
    with pytest.raises(ValueError, match="wanted a path"):
        storage.check_url(url)


@pytest.mark.parametrize("url", ["a/b", "/a/b", "./a:b", "s3://b/k", "memory://x", "file:///x", "a/b:c"])
def test_usual_locations_are_accepted(url):
    storage.check_url(url)


@given(parts=st.lists(st.text("abc.-", min_size=1, max_size=4), min_size=1, max_size=4))
@pytest.mark.parametrize("base", ["s3://bucket", "/", "folder", "memory://"])
def test_relative_undoes_join(base, parts):
    assert storage.relative(storage.join(base, *parts), base) == "/".join(parts)
    if len(parts) > 1:
        assert storage.parent(storage.join(base, *parts)) == storage.join(base, *parts[:-1])
