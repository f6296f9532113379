"""Shards that other programs wrote, and what is strange in them without being wrong."""

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from webdataset.writer import TarWriter

from pipelines import storage
from pipelines.indexing import IndexSettings, index_shards
from pipelines.manifest import load_manifest
from tests.pipelines.test_tarwalk import make_tar
from tests.pipelines.videos import make_video
from tests.rows import videos_of_rows

NO_DIGESTS = IndexSettings(digest="none")


def rows_of(folder):
    return {row["key"]: row for row in load_manifest(str(folder)).table.to_pylist()}


def v2d_meta(key, caption, **more):
    """The fields that video2dataset writes."""
    known = {"key": key, "status": "success", "error_message": None, "url": "http://example.org/v", "caption": caption}
    return json.dumps(known | {"yt_meta_dict": None, "clips": [[0.0, 4.2]]} | more).encode()


def test_video2dataset_shards_as_they_lie(tmp_path):
    members = [
        *(("0000_0.mp4", b"1"), ("0000_0.txt", b"a dog"), ("0000_0.json", v2d_meta("0000_0", "a dog"))),
        *(("0000_1.mp4", b"2"), ("0000_1.json", v2d_meta("0000_1", "a cat\nasleep"))),
        *(("0000_2.mp4", b"3"), ("0000_2.json", v2d_meta("0000_2", None))),
        *(("0000_3.mp4", b"4"), ("0000_3.json", v2d_meta("0000_3", "not this", captions=["one", "two"]))),
        *(("0000_4.mp4", b"5"), ("0000_4.txt", b"\n"), ("0000_4.json", v2d_meta("0000_4", "the lone one"))),
        *(("0000_5.mp4", b"6"), ("0000_5.json", v2d_meta("0000_5", 7))),
    ]
    (tmp_path / "00000.tar").write_bytes(make_tar(members))
    pq.write_table(pa.table({"key": ["0000_0"], "caption": ["a dog"]}), tmp_path / "00000.parquet")
    (tmp_path / "00000_stats.json").write_text("{}")
    report = index_shards(str(tmp_path))
    assert {key: row["captions"] for key, row in rows_of(tmp_path).items()} == {
        "0000_0": ["a dog"],
        "0000_1": ["a cat\nasleep"],
        "0000_2": [],
        "0000_3": ["one", "two"],
        "0000_4": ["the lone one"],
        "0000_5": [],
    }
    assert (report.num_shards, report.num_ok, report.reasons) == (1, 5, {"bad_json": 1})
    assert (report.bad_shards, report.notes, report.num_ignored) == ([], [], 0)


def test_failed_downloads_of_video2dataset_say_why(tmp_path):
    gone = "ERROR: [youtube] abc: Video unavailable"
    members = [
        *(("0.mp4", b"1"), ("0.txt", b"a dog"), ("0.json", v2d_meta("0", "a dog"))),
        *(("1.txt", b"a cat"), ("1.json", v2d_meta("1", "a cat", status="failed_to_download", error_message=gone))),
        *(("2.txt", b"a cow"), ("2.json", v2d_meta("2", "a cow", status="failed_to_subsample"))),
        *(("3.txt", b"a pig"), ("3.json", v2d_meta("3", "a pig"))),
    ]
    (tmp_path / "00000.tar").write_bytes(make_tar(members))
    keys, failed = ["0", "1", "2", "3", "4", "5", "6"], {1: "failed_to_download", 2: "failed_to_subsample", 6: "failed"}
    status = [failed.get(number, "success") for number in range(7)]
    table = pa.table({"key": keys, "status": status, "error_message": [None] * 7})
    pq.write_table(table, tmp_path / "00000.parquet")
    report = index_shards(str(tmp_path))
    assert report.reasons == {"no_video": 1, "not_downloaded": 2}
    assert {key: row["reason"] for key, row in rows_of(tmp_path).items() if row["status"] == "not_downloaded"} == {
        "1": f"failed_to_download: {gone}",
        "2": "failed_to_subsample: no message",
    }
    assert [(note.code, note.count, note.example) for note in report.notes] == [("not_in_tar", 2, "4")]
    (tmp_path / "00000.parquet").write_bytes(b"PAR1")
    (tmp_path / "00000.tar").write_bytes(make_tar(members[:3]))
    assert index_shards(str(tmp_path)).notes == []


def test_plain_webdataset_shards(tmp_path):
    video = os.urandom(3000)
    with TarWriter(str(tmp_path / "a.tar")) as sink:
        for number in range(3):
            sink.write({"__key__": f"d/{number}", "mp4": video, "txt": f"clip {number}", "json": {"fps": 3}})
    report = index_shards(str(tmp_path))
    assert [row["captions"] for row in rows_of(tmp_path).values()] == [[f"clip {number}"] for number in range(3)]
    assert (report.num_ok, report.bad_shards, report.notes) == (3, [], [])
    assert list(videos_of_rows(load_manifest(str(tmp_path)), [2, 0])) == [video, video]


@pytest.mark.parametrize(
    ("names", "notes"),
    [
        (["a.mp4", "a.txt", "b.mp4", "b.txt"], []),
        (["a.mp4", "b.mp4", "b.txt", "a.txt"], [("scattered", 1, "a")]),
        (["a.mp4", "b.mp4", "a.txt", "b.txt"], [("scattered", 2, "a")]),
        (["a.mp4", "a.depth.png", "a.txt"], []),
        (["a.mp4", "readme", "a.txt"], [("scattered", 1, "a")]),
        (["d/a.mp4", "a.mp4", "d/a.txt"], [("scattered", 1, "d/a")]),
        (["a.MP4", "a.txt"], []),
        (["Clip.mp4", "clip.txt"], [("mixed_case", 1, "Clip and clip")]),
    ],
)
def test_what_is_strange_is_told(tmp_path, names, notes):
    (tmp_path / "a.tar").write_bytes(make_tar([(name, b"x") for name in names]))
    report = index_shards(str(tmp_path))
    assert [(note.code, note.count, note.example) for note in report.notes] == notes
    assert report.bad_shards == []


def test_two_tars_in_one_file_are_not_taken_for_one(tmp_path):
    one, two = (make_tar([(f"{name}.mp4", b"x")]) for name in "ab")
    (tmp_path / "a.tar").write_bytes(one + two)
    (tmp_path / "b.tar").write_bytes(one + bytes(20_000))
    for settings in (IndexSettings(), NO_DIGESTS):
        report = index_shards(str(tmp_path), settings)
        assert [(bad.shard, bad.code) for bad in report.bad_shards] == [("a.tar", "after_end")]
        assert report.num_ok == 2


@pytest.mark.parametrize("keep", [None, 700, 5000, 60_000, 399_000, -10_300, -9000])
def test_without_digests_all_else_is_the_same(tmp_path, keep):
    videos = [os.urandom(size) for size in (100_000, 200, 0, 150_000, 90_000)]
    members = [
        (f"{i}.{suffix}", data)
        for i, video in enumerate(videos)
        for suffix, data in (("mp4", video), ("json", b'{"caption": "c"}'), ("nfo", b"other"))
    ]
    (tmp_path / "a.tar").write_bytes(make_tar(members)[:keep])
    full = index_shards(str(tmp_path))
    rows = rows_of(tmp_path)
    none = index_shards(str(tmp_path), NO_DIGESTS)
    assert rows_of(tmp_path) == {key: row | {"sha256": ""} for key, row in rows.items()}
    assert (none.census.as_dict(), none.bad_shards) == (full.census.as_dict(), full.bad_shards)
    has_digest = any(row["sha256"] for row in rows.values())
    assert (none.digest != full.digest) == has_digest


def test_without_digests_videos_are_not_read(tmp_path, monkeypatch):
    videos = [os.urandom(1 << 20) for _ in range(8)]
    members = [(f"{i}.{suffix}", data) for i, v in enumerate(videos) for suffix, data in (("mp4", v), ("txt", b"c"))]
    (tmp_path / "a.tar").write_bytes(make_tar(members))
    asked, real = [], storage.read_bytes

    def read_bytes(url, *, start=0, length=None):
        asked.append((url, length))
        return real(url, start=start, length=length)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "read_bytes", read_bytes)
        index_shards(str(tmp_path), NO_DIGESTS)
    lengths = [length for url, length in asked if url.endswith(".tar")]
    assert sum(lengths) < 0.05 * sum(map(len, videos))
    assert len(lengths) <= 2 * len(videos)
    assert list(videos_of_rows(load_manifest(str(tmp_path)), range(8))) == videos


@pytest.mark.parametrize("verify", ["header", "sha256"])
def test_without_digests_the_header_decides(tmp_path, verify):
    names = ["a.mp4", "b.MP4", "é.mp4", f"{'long' * 40}.mp4", "d/e.jpg"]
    members = [(name, os.urandom(700)) for name in names]
    (tmp_path / "a.tar").write_bytes(make_tar(members))
    index_shards(str(tmp_path), NO_DIGESTS)
    manifest = load_manifest(str(tmp_path))
    assert list(videos_of_rows(manifest, range(5), verify=verify)) == [data for _, data in members]

    (tmp_path / "a.tar").write_bytes(make_tar([("other.mp4", b"x" * 700), *members[1:]]))
    first, second, *_ = videos_of_rows(manifest, range(5), verify=verify)
    assert (getattr(first, "code", "ok"), second) == ("changed_bytes", members[1][1])


def test_probes_become_columns_and_leave_the_digest(tmp_path):
    members = [("a.mp4", make_video(num_frames=10)), ("b.mp4", b"no video"), ("c.txt", b"no video"), ("d.jpg", b"x")]
    (tmp_path / "a.tar").write_bytes(make_tar(members))
    plain = index_shards(str(tmp_path))
    rows = rows_of(tmp_path)
    for digest in ("full", "none"):
        report = index_shards(str(tmp_path), IndexSettings(probe=True, digest=digest))
        probed = rows_of(tmp_path)
        assert {key: row["probe"] for key, row in probed.items()} == {
            "a": "ok",
            "b": "bad_container",
            "c": "",
            "d": "bad_image",
        }
        assert (probed["a"]["codec"], probed["a"]["width"], probed["a"]["height"]) == ("h264", 64, 48)
        assert dict(report.census.unreadable) == {"bad_container": 1, "bad_image": 1}
        if digest == "full":
            assert report.digest == plain.digest
            assert {key: {name: row[name] for name in rows[key]} for key, row in probed.items()} == rows
