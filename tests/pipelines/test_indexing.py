import gzip
import hashlib
import json
import os
import uuid

import pyarrow.parquet as pq
import pytest

from pipelines import storage
from pipelines.annotations import Record
from pipelines.indexing import IndexSettings, index_shards
from pipelines.manifest import MANIFEST_SCHEMA, load_manifest, manifest_digest, sample_uid
from pipelines.quarantine import REASONS
from pipelines.samples import MAX_TEXT_BYTES, split_name
from pipelines.shard_list import find_shards
from pipelines.tarwalk import SHARD_REASONS
from tests.pipelines.test_tarwalk import make_tar
from tests.rows import videos_of_rows
from tests.shards import write_set

META = json.dumps({"video_id": "v", "captions": ["one", "two"], "start_s": 0.5, "end_s": 2}).encode()


def index(folder, **shards):
    """Write tars by name, index them; (report, rows by key)."""
    for name, data in shards.items():
        tar = make_tar(data) if isinstance(data, list) else data
        (folder / f"{name}.tar").write_bytes(tar)
    report = index_shards(str(folder))
    return report, {row["key"]: row for row in load_manifest(str(folder)).table.to_pylist()}


def test_a_row_tells_all_about_its_sample(tmp_path):
    video = os.urandom(3000)
    report, rows = index(tmp_path, a=[("d/k.json", META), ("d/k.mp4", video), ("d/k.txt", b"two\nthree\n\n")])
    row = rows["d/k"]
    data = (tmp_path / "a.tar").read_bytes()
    assert data[row["video_offset"] : row["video_offset"] + row["video_bytes"]] == video
    expected = {
        "uid": sample_uid("a.tar", "d/k"),
        "shard": "a.tar",
        "shard_bytes": len(data),
        "key": "d/k",
        "video_id": "v",
        "video_suffix": "mp4",
        "video_bytes": 3000,
        "captions": ["one", "two", "three"],
        "start_s": 0.5,
        "end_s": 2.0,
        "sha256": hashlib.sha256(video).hexdigest(),
        "status": "ok",
        "reason": "",
    }
    assert {name: row[name] for name in expected} == expected
    assert (report.num_samples, report.num_ok, report.num_captioned, report.bad_shards) == (1, 1, 1, [])


V = ("k.mp4", b"video")


@pytest.mark.parametrize(
    ("members", "status"),
    [
        ([("k.json", META)], "no_video"),
        ([V, ("k.webm", b"w")], "many_videos"),
        ([("k.jpg", b"i"), ("k.png", b"j")], "many_videos"),
        ([("k.mp4", b"")], "empty_video"),
        ([("k.jpg", b"")], "empty_video"),
        ([("k.jpg", b"i"), ("k.mp4", b"")], "empty_video"),
        ([("k.jpg", b"i"), ("k.json", META)], "bad_segment"),
        ([("k.jpg", b"i"), ("k.jpg", b"i")], "duplicate_key"),
        ([V, ("k.json", b"{")], "bad_json"),
        ([V, ("k.json", b"[]")], "bad_json"),
        ([V, ("k.json", b"[" * 100_000)], "bad_json"),
        ([V, ("k.json", b'{"captions": "one"}')], "bad_json"),
        ([V, ("k.json", b'{"captions": [1]}')], "bad_json"),
        ([V, ("k.json", b'{"video_id": {}}')], "bad_json"),
        ([V, ("k.json", b'{"captions": ["\xff"]}')], "bad_json"),
        ([V, ("k.json", b'{"x": ' + b"9" * 5000 + b"}")], "bad_json"),
        ([V, ("k.json", b'{"start_s": 3, "end_s": 2}')], "bad_segment"),
        ([V, ("k.json", b'{"start_s": NaN}')], "bad_segment"),
        ([V, ("k.json", b'{"start_s": "1"}')], "bad_segment"),
        ([V, ("k.json", b'{"end_s": 1' + b"0" * 400 + b"}")], "bad_segment"),
        ([V, ("k.txt", b"\xff\xfe")], "bad_text"),
        ([V, ("k.txt", b"x" * (MAX_TEXT_BYTES + 1))], "text_too_large"),
        ([V, ("k.mp4", b"other")], "duplicate_key"),
        ([V, ("k.json", META), ("k.json", META)], "duplicate_key"),
        ([V], "ok"),
        ([("k.jpg", b"i")], "ok"),
        ([("k.jpg", b"i"), ("k.json", b'{"start_s": 0}')], "ok"),
        ([("k.jpg", b""), V, ("k.png", b"j"), ("k.json", META)], "ok"),
        ([("k.MP4", b"video"), ("k.JSON", META)], "ok"),
        ([V, ("k.json", b'{"captions": ["\\ud800"]}')], "ok"),
    ],
)
def test_every_flaw_of_a_sample_has_its_reason(tmp_path, members, status):
    sound = [("z.mp4", b"sound"), ("z.json", META)]
    report, rows = index(tmp_path, a=[*members, *sound])
    assert rows["k"]["status"] == status
    assert status in {"ok", *REASONS}
    assert rows["z"]["status"] == "ok"
    assert report.reasons == ({} if status == "ok" else {status: 1})
    assert report.num_samples == 2


def test_dotted_keys_are_told_apart_and_rejected(tmp_path):
    _, rows = index(tmp_path, a=[("a.1.mp4", b"1"), ("a.2.mp4", b"2"), ("d.x/b.mp4", b"3")])
    assert {key: row["status"] for key, row in rows.items()} == {
        "a.1": "dotted_key",
        "a.2": "dotted_key",
        "d.x/b": "ok",
    }


@pytest.mark.parametrize(
    ("name", "key", "suffix"),
    [
        ("a.mp4", "a", "mp4"),
        ("d.d/a.json", "d.d/a", "json"),
        ("a.JPG", "a", "jpg"),
        ("a.depth.png", "a.depth", "png"),
        ("a.gif", "a.gif", ""),
        ("._a.mp4", "._a.mp4", ""),
        (".mp4", ".mp4", ""),
        ("d/mp4", "d/mp4", ""),
    ],
)
def test_names_are_cut_at_the_last_dot(name, key, suffix):
    assert split_name(name) == (key, suffix)


SOUND = make_tar([("a.mp4", b"1" * 600), ("a.json", META), ("b.mp4", b"2" * 2000), ("b.json", META)])
B_VIDEO = 512 + 1024 + 512 + 512 + 512


@pytest.mark.parametrize(
    ("data", "code", "statuses"),
    [
        (b"", "empty_shard", {}),
        (gzip.compress(SOUND), "compressed", {}),
        (b"no tar at all" * 100, "not_a_tar", {}),
        (make_tar([("readme.md", b"x")]), "no_samples", {}),
        (SOUND[: B_VIDEO + 700], "cut_member", {"a": "ok", "b": "cut_member"}),
        (SOUND[: B_VIDEO - 512], "no_end", {"a": "ok"}),
        (SOUND[: B_VIDEO + 2048 + 1024], "no_end", {"a": "ok", "b": "ok"}),
        (SOUND[: B_VIDEO - 512] + b"x" * 4096, "bad_header", {"a": "ok"}),
    ],
)
def test_a_bad_shard_is_told_and_stops_nothing(tmp_path, data, code, statuses):
    report, rows = index(tmp_path, bad=data, good=[("g.mp4", b"3"), ("g.json", META)])
    assert [(bad.shard, bad.code) for bad in report.bad_shards] == [("bad.tar", code)]
    assert code in SHARD_REASONS
    assert {key: row["status"] for key, row in rows.items()} == {**statuses, "g": "ok"}
    assert report.num_shards == 2


def test_compressed_shards_are_not_overlooked(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(SOUND))
    report, _ = index(tmp_path, b=SOUND)
    assert [bad.shard for bad in report.bad_shards] == ["a.tar.gz"]


def test_other_members_are_counted(tmp_path):
    report, _ = index(tmp_path, a=[V, ("k.jpg", b"x"), ("._k.mp4", b"x"), ("notes", b"x")])
    assert (report.num_samples, report.num_ignored) == (1, 3)


def test_images_are_samples_and_thumbnails_are_not(tmp_path):
    """As img2dataset and video2dataset write them, in one shard."""
    image, video = os.urandom(700), os.urandom(900)
    members = [
        *(("i.jpg", image), ("i.json", b'{"caption": "a cat", "width": 4, "sha256": "x"}'), ("i.txt", b"a cat")),
        *(("i.depth.png", b"d"), ("lone.depth.png", b"d")),
        *(("v.jpg", b"thumbnail"), ("v.mp4", video), ("v.txt", b"a dog"), ("v.webp", b"another")),
        *(("w.mp4", video), ("w.jpg", b""), ("x.9.png", b"i"), ("x.9.txt", b"captioned"), ("x.mp4", video)),
    ]
    report, rows = index(tmp_path, a=members)
    assert {key: (row["status"], row["video_suffix"], row["captions"]) for key, row in rows.items()} == {
        "i": ("ok", "jpg", ["a cat"]),
        "lone.depth": ("dotted_key", "png", []),
        "v": ("ok", "mp4", ["a dog"]),
        "w": ("ok", "mp4", []),
        "x.9": ("dotted_key", "png", ["captioned"]),
        "x": ("ok", "mp4", []),
    }
    assert rows["i"]["sha256"] == hashlib.sha256(image).hexdigest()
    assert (report.num_samples, report.num_ok, report.num_captioned, report.num_ignored) == (6, 4, 2, 4)
    assert report.num_video_bytes == 700 + 3 * 900 + 2
    positions = [number for number, key in enumerate(rows) if rows[key]["status"] == "ok"]
    assert list(videos_of_rows(load_manifest(str(tmp_path)), positions)) == [image, video, video, video]


def test_names_that_are_not_utf8_stay_apart(tmp_path):
    members = [("k\udcff.mp4", b"1"), ("k\udcfe.mp4", b"2")]
    report, rows = index(tmp_path, a=members)
    assert report.num_ok == 2
    assert len({row["uid"] for row in rows.values()}) == 2


def test_the_digest_names_the_content_not_the_place(tmp_path):
    sets = [tmp_path / name for name in ("x", "y", "z")]
    for folder in sets:
        (folder / "sub").mkdir(parents=True)
    tars = [SOUND, SOUND, SOUND.replace(b"2222", b"2223")]
    digests = []
    for folder, data in zip(sets, tars, strict=True):
        (folder / "sub/s.tar").write_bytes(data)
        digests.append(index_shards(str(folder)).digest)
    assert digests[0] == digests[1] != digests[2]
    assert (sets[0] / "manifest.parquet").read_bytes() == (sets[1] / "manifest.parquet").read_bytes()
    manifest = load_manifest(str(sets[0] / "manifest.parquet"))
    assert manifest.digest == digests[0] == manifest_digest(manifest.table)
    assert (manifest.root, manifest.num_rows) == (str(sets[0]), 2)
    assert manifest.shard_url("sub/s.tar") == str(sets[0] / "sub/s.tar")


def test_rows_follow_shards_and_members_for_any_number_of_threads(tmp_path):
    for number in range(7):
        (tmp_path / f"{number}.tar").write_bytes(make_tar([(f"{number}{i}.mp4", os.urandom(9)) for i in range(5)]))
    digests = {
        index_shards(str(tmp_path), IndexSettings(num_workers=threads, incremental=False)).digest for threads in (1, 3)
    }
    assert len(digests) == 1
    keys = load_manifest(str(tmp_path)).table.column("key").to_pylist()
    assert keys == [f"{number}{i}" for number in range(7) for i in range(5)]


def test_written_shards_index_without_a_complaint(tmp_path):
    (tmp_path / "v.mp4").write_bytes(b"not even a video")
    url = f"memory://{uuid.uuid4().hex}"
    write_set([Record("v.mp4", "v", "all", ("é",), None, None)], url, videos=tmp_path)
    report = index_shards(url)
    assert (report.num_ok, report.num_captioned, report.bad_shards, report.num_ignored) == (1, 1, [], 0)
    assert list(find_shards(url)) == ["shard-000000.tar"]


def test_shards_go_through_an_object_store(tmp_path, s3_server):
    videos = {f"{number}.mp4": os.urandom(3000) for number in range(6)}
    for name, data in videos.items():
        (tmp_path / name).write_bytes(data)
    records = [Record(name, name, "all", ("é",), None, None) for name in videos]
    url = storage.join(s3_server, uuid.uuid4().hex)
    assert write_set(records, url, videos=tmp_path, shard_bytes=16_384).num_shards == 2
    assert not write_set(records, url, videos=tmp_path, shard_bytes=16_384).written
    assert index_shards(url).num_ok == 6
    assert list(videos_of_rows(load_manifest(url), range(6))) == list(videos.values())

    last = storage.list_files(url, suffix=".tar")[-1]
    storage.write_bytes(last, storage.read_bytes(last, length=2048))
    cut = list(videos_of_rows(load_manifest(url), range(6), max_gap_bytes=0))
    assert [getattr(result, "code", "ok") for result in cut[-2:]] == ["short_read", "short_read"]


def test_training_wants_captions_and_embedding_does_not(tmp_path):
    index(tmp_path, a=[V, ("z.mp4", b"z"), ("z.json", META), ("n.json", META)])
    manifest = load_manifest(str(tmp_path))
    assert (manifest.num_ok, manifest.num_captioned) == (2, 1)
    assert manifest.take_captioned([0]).to_pylist() == manifest.slice(1, 2).to_pylist()


def test_missing_or_foreign_manifests_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"jobs\.index_shards"):
        load_manifest(str(tmp_path))
    with pytest.raises(ValueError, match=r"no \.tar"):
        index_shards(str(tmp_path))
    pq.write_table(MANIFEST_SCHEMA.empty_table().drop_columns(["uid"]), tmp_path / "manifest.parquet")
    with pytest.raises(ValueError, match="this version"):
        load_manifest(str(tmp_path))
    storage.write_bytes(str(tmp_path / "manifest.parquet"), b"junk")
    with pytest.raises(ValueError, match="no Parquet"):
        load_manifest(str(tmp_path))
