import io
import json
import os
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.annotations import Record
from pipelines.shard_pool import write_here
from pipelines.shard_set import claim_set, find_receipts, finish_set
from pipelines.shards import cut_shards, plan_shard_set
from pipelines.sources import Source
from pipelines.transcode import Encoding
from tests.pipelines.test_tarwalk import body
from tests.pipelines.videos import make_video

NAMES = ["a.mp4", "b.webm", "sub/c.MKV", "d.mp4"]


def record(path, *, captions=("a caption 🐈",), **fields):
    return Record(path, path.rpartition(".")[0], "all", captions, fields.get("start_s"), fields.get("end_s"))


RECORDS = [record("a.mp4"), record("b.webm", captions=(), start_s=1.0, end_s=2.5), record("sub/c.MKV"), record("d.mp4")]


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    (folder / "sub").mkdir(parents=True)
    for name, size in zip(NAMES, [700, 1, 5000, 0], strict=True):
        (folder / name).write_bytes(os.urandom(size))
    return folder


def plan(out, videos, records=RECORDS, *, shard_bytes=4096, **options):
    sources = [
        Source(item, str(videos / item.path), (videos / item.path).stat().st_size, "mark")
        for item in records
        if (videos / item.path).exists()
    ]
    return plan_shard_set(sources, str(out), shard_bytes=shard_bytes, **options)


def write(out, videos, records=RECORDS, **options):
    tasks = plan(out, videos, records, **options)
    claim_set(tasks)
    known = find_receipts(tasks)
    written = [receipt.name for receipt in write_here([task for task in tasks if task.name not in known])]
    return written, finish_set(tasks)


def read_all(out):
    """{shard: {member: bytes}} by tarfile, the oracle."""
    shards = {}
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(fileobj=io.BytesIO(path.read_bytes())) as tar:
            shards[path.name] = {member.name: body(tar, member) for member in tar}
    return shards


def files(out):
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_samples_come_back_as_they_went_in(tmp_path, videos):
    _, report = write(tmp_path / "out", videos, shard_bytes=1 << 20)
    (members,) = read_all(tmp_path / "out").values()
    assert list(members) == [
        *("000000000.json", "000000000.mp4", "000000001.json", "000000001.webm"),
        *("000000002.json", "000000002.mkv", "000000003.json", "000000003.mp4"),
    ]
    assert members["000000002.mkv"] == (videos / "sub/c.MKV").read_bytes()
    assert json.loads(members["000000000.json"]) == {"captions": ["a caption 🐈"], "source": "a.mp4", "video_id": "a"}
    assert json.loads(members["000000001.json"])["end_s"] == 2.5
    assert (report.num_samples, report.num_shards, report.rejected) == (4, 1, [])


def test_images_are_written_as_videos_are(tmp_path, videos):
    data = {name: os.urandom(50) for name in ("p.jpg", "q.PNG", "r.webp", "s.jpeg")}
    for name, image in data.items():
        (videos / name).write_bytes(image)
    for out, encoding in (("plain", None), ("coded", Encoding())):
        write(tmp_path / out, videos, [record(name) for name in data], shard_bytes=1 << 20, encoding=encoding)
        (members,) = read_all(tmp_path / out).values()
        written = {name: body for name, body in members.items() if not name.endswith(".json")}
        assert list(written) == ["000000000.jpg", "000000001.png", "000000002.webp", "000000003.jpeg"]
        assert list(written.values()) == list(data.values())


def test_same_inputs_give_the_same_bytes_and_a_rerun_writes_nothing(tmp_path, videos):
    for name in ("x", "y"):
        written, report = write(tmp_path / name, videos)
        assert (len(written), report.written) == (4, True)
    assert files(tmp_path / "x") == files(tmp_path / "y")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "x").rglob("*")}
    written, report = write(tmp_path / "x", videos)
    assert (written, report.written) == ([], False)
    assert report.num_bytes == sum(path.stat().st_size for path in (tmp_path / "x").glob("*.tar"))
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "x").rglob("*")}


@pytest.mark.parametrize("lost", ["shard-000001.tar", "_receipts/shard-000001.tar.json"])
def test_an_interrupted_run_writes_what_is_missing(tmp_path, videos, lost):
    out = tmp_path / "x"
    write(out, videos)
    whole = files(out)
    (out / "_WRITTEN.json").unlink()
    (out / lost).unlink()
    (out / ".draft-of-the-dead").mkdir()
    (out / ".draft-of-the-dead/draft").write_bytes(b"half a shard")
    written, report = write(out, videos)
    assert written == ["shard-000001.tar"]
    assert report.written
    assert files(out) == whole


def test_a_shard_that_is_not_what_its_receipt_says_is_written_again(tmp_path, videos):
    out = tmp_path / "x"
    write(out, videos)
    whole = files(out)
    (out / "shard-000000.tar").write_bytes(b"cut")
    tasks = plan(out, videos)
    with pytest.raises(RuntimeError, match=r"shard-000000\.tar"):
        finish_set(tasks)
    assert write(out, videos)[0] == ["shard-000000.tar"]
    assert files(out) == whole


def test_other_inputs_and_other_settings_are_refused(tmp_path, videos):
    out = tmp_path / "x"
    write(out, videos)
    whole = files(out)
    for records, options in [
        (RECORDS[:2], {}),
        ([*RECORDS[:3], RECORDS[3]._replace(captions=("another",))], {}),
        (RECORDS, {"shard_bytes": 1 << 20}),
        (RECORDS, {"encoding": Encoding()}),
    ]:
        with pytest.raises(ValueError, match="choose another folder"):
            write(out, videos, records, **options)
    assert files(out) == whole


def test_a_folder_without_a_shard_is_free(tmp_path, videos):
    claim_set(plan(tmp_path / "x", videos, RECORDS[:2]))
    assert write(tmp_path / "x", videos)[1].written


def test_a_video_that_goes_or_changes_before_it_is_read_is_told(tmp_path, videos):
    tasks = plan(tmp_path / "out", videos, shard_bytes=1 << 20)
    (videos / "a.mp4").unlink()
    (videos / "sub/c.MKV").write_bytes(b"shorter")
    (receipt,) = write_here(tasks)
    assert [(reject.sample, reject.reason) for reject in receipt.rejected] == [
        ("a.mp4", "missing_video"),
        ("sub/c.MKV", "changed_bytes"),
    ]
    (members,) = read_all(tmp_path / "out").values()
    assert [name for name in members if not name.endswith(".json")] == ["000000001.webm", "000000003.mp4"]


def test_transcoding_tells_what_it_cannot_decode_and_cuts_segments(tmp_path, videos):
    (videos / "good.mp4").write_bytes(make_video(num_frames=30))
    records = [record("a.mp4"), record("good.mp4"), record("good.mp4", start_s=1.0, end_s=2.0)]
    sets = []
    for name in ("x", "y"):
        _, report = write(tmp_path / name, videos, records, shard_bytes=1 << 20, encoding=Encoding(short_side=16))
        assert [(reject.sample, reject.reason) for reject in report.rejected] == [("a.mp4", "bad_container")]
        sets.append(files(tmp_path / name))
    assert sets[0] == sets[1]
    (members,) = read_all(tmp_path / "x").values()
    assert list(members) == ["000000001.json", "000000001.mp4", "000000002.json", "000000002.mp4"]
    cut = json.loads(members["000000002.json"])
    assert (cut["source_start_s"], cut["source_end_s"], "start_s" in cut) == (1.0, 2.0, False)


@given(sizes=st.lists(st.integers(0, 5000), min_size=1, max_size=30), shard_bytes=st.integers(1, 20_000))
def test_shards_hold_all_samples_in_order_within_their_size(sizes, shard_bytes):
    sources = [Source(record(f"{number}.mp4"), f"/{number}.mp4", size, "") for number, size in enumerate(sizes)]
    shards = cut_shards(sources, shard_bytes=shard_bytes)
    assert [source for shard in shards for source in shard] == sources
    for shard in shards:
        members = sum(1024 + 512 + -(-source.num_bytes // 512) * 512 for source in shard)
        assert len(shard) == 1 or members <= shard_bytes
