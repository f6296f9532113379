import bz2
import gzip
import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.bytesource import RangeSource, StreamSource
from pipelines.tarwalk import ShardError, TarWalk


def chunked(data, size):
    return iter([data[i : i + size] for i in range(0, len(data), size)])


def sources(data, chunk=1000):
    """All ways to the bytes of a tar."""
    yield StreamSource(chunked(data, chunk))
    yield RangeSource(lambda start, length: data[start : start + length], num_bytes=len(data))


def walk_all(data, chunk=1000):
    """([(name, offset, size, bytes)], code of the damage or ""), from whatever source."""
    one, *others = [walk_source(source) for source in sources(data, chunk)]
    assert all(other == one for other in others)
    return one


def walk_source(source):
    walk, found = TarWalk(source), []
    try:
        for member in walk:
            found.append((*member, b"".join(walk.body())))
    except ShardError as error:
        return found, error.code
    return found, ""


def make_tar(members, tar_format=tarfile.PAX_FORMAT):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def body(tar, member):
    """The bytes of a member by tarfile, the oracle."""
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


names = st.text(st.characters(exclude_characters="\0\n/", exclude_categories=["Cs"]), min_size=1, max_size=150)
contents = st.lists(st.tuples(names, st.binary(max_size=2000)), min_size=1, max_size=6)
formats = st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])


@settings(max_examples=60, deadline=None)
@given(members=contents, tar_format=formats, chunk=st.integers(1, 3000))
def test_sees_what_tarfile_sees(members, tar_format, chunk):
    data = make_tar(members, tar_format)
    found, code = walk_all(data, chunk)
    assert code == ""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert found == [(m.name, m.offset_data, m.size, body(tar, m)) for m in tar]
    assert all(data[offset : offset + size] == content for _, offset, size, content in found)


@settings(max_examples=60, deadline=None)
@given(members=contents, tar_format=formats, share=st.floats(0, 1))
def test_every_cut_is_seen_and_gives_a_prefix(members, tar_format, share):
    data = make_tar(members, tar_format)
    end = len(data.rstrip(b"\0")) + 512
    whole, _ = walk_all(data)
    found, code = walk_all(data[: int(share * min(end, len(data) - 1024))])
    assert code in ("empty_shard", "not_a_tar", "no_end", "cut_member")
    assert found == whole[: len(found)]


@settings(max_examples=100, deadline=None)
@given(members=contents, at=st.integers(0, 10_000), noise=st.binary(min_size=1, max_size=600))
def test_noise_never_escapes_as_another_error(members, at, noise):
    data = bytearray(make_tar(members))
    at %= len(data)
    data[at : at + len(noise)] = noise
    found, _ = walk_all(bytes(data))
    assert all(bytes(data[offset : offset + size]) == content for _, offset, size, content in found)


@given(data=st.binary(max_size=2000))
def test_garbage_is_no_tar(data):
    found, code = walk_all(data)
    assert found == []
    assert code in ("empty_shard", "not_a_tar", "compressed", "no_end")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda data: b"", "empty_shard"),
        (gzip.compress, "compressed"),
        (bz2.compress, "compressed"),
        (lambda data: b"x" * 2000, "not_a_tar"),
        (lambda data: data[:1024], "no_end"),
        (lambda data: data[: 1024 + 512], "no_end"),
        (lambda data: data[:700], "cut_member"),
        (lambda data: data[:1024] + b"x" * 1024, "bad_header"),
    ],
)
def test_damage_has_a_name(change, code):
    assert walk_all(change(make_tar([("a.mp4", b"12345")])))[1] == code


def test_links_devices_and_folders_are_not_followed():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind in [("l.mp4", tarfile.SYMTYPE), ("h.mp4", tarfile.LNKTYPE), ("d", tarfile.DIRTYPE)]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    walk = TarWalk(StreamSource(iter([buffer.getvalue()])))
    assert list(walk) == []
    assert walk.num_skipped == 2
