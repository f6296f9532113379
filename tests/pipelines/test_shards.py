import io
import json
import os
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.annotations import Record
from pipelines.shards import plan_shards, write_shards
from tests.pipelines.test_tarwalk import body


def record(path, *, captions=("a caption 🐈",), **fields):
    return Record(path, path.rpartition(".")[0], "all", captions, fields.get("start_s"), fields.get("end_s"))


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    (folder / "sub").mkdir(parents=True)
    for name, size in [("a.mp4", 700), ("b.webm", 1), ("sub/c.MKV", 5000), ("d.mp4", 0), ("e.flv", 9)]:
        (folder / name).write_bytes(os.urandom(size))
    return folder


def read_all(out):
    """{shard: {member: bytes}} by tarfile, the oracle."""
    shards = {}
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(fileobj=io.BytesIO(path.read_bytes())) as tar:
            shards[path.name] = {member.name: body(tar, member) for member in tar}
    return shards


RECORDS = [record("a.mp4"), record("b.webm", captions=(), start_s=1.0, end_s=2.5), record("sub/c.MKV"), record("d.mp4")]


def write(out, videos, records=RECORDS, **options):
    return write_shards(records, str(out), videos_url=str(videos), **options)


def test_samples_come_back_as_they_went_in(tmp_path, videos):
    report = write(tmp_path / "out", videos)
    (members,) = read_all(tmp_path / "out").values()
    assert list(members) == [
        *("000000000.json", "000000000.mp4", "000000001.json", "000000001.webm"),
        *("000000002.json", "000000002.mkv", "000000003.json", "000000003.mp4"),
    ]
    assert members["000000002.mkv"] == (videos / "sub/c.MKV").read_bytes()
    assert json.loads(members["000000000.json"]) == {"captions": ["a caption 🐈"], "source": "a.mp4", "video_id": "a"}
    assert json.loads(members["000000001.json"])["end_s"] == 2.5
    assert (report.num_samples, report.num_shards, report.problems) == (4, 1, [])


def test_images_are_written_as_videos_are(tmp_path, videos):
    data = {name: os.urandom(50) for name in ("p.jpg", "q.PNG", "r.webp", "s.jpeg")}
    for name, image in data.items():
        (videos / name).write_bytes(image)
    report = write(tmp_path / "out", videos, [record("a.mp4"), *(record(name) for name in data), record("e.flv")])
    (members,) = read_all(tmp_path / "out").values()
    written = {name: body for name, body in members.items() if not name.endswith((".json", ".mp4"))}
    assert list(written) == ["000000001.jpg", "000000002.png", "000000003.webp", "000000004.jpeg"]
    assert list(written.values()) == list(data.values())
    assert (report.num_samples, [problem.kind for problem in report.problems]) == (5, ["bad_suffix"])


def test_what_cannot_be_written_is_told(tmp_path, videos):
    report = write(tmp_path / "out", videos, [*RECORDS, record("e.flv"), record("gone.mp4")])
    assert report.num_samples == 4
    assert sorted(problem.kind for problem in report.problems) == ["bad_suffix", "missing_video"]
    with pytest.raises(ValueError, match="no video or image for any record"):
        write(tmp_path / "none", videos, [record("gone.mp4")])


def test_same_inputs_give_the_same_bytes_and_a_rerun_writes_nothing(tmp_path, videos):
    for name in ("x", "y"):
        assert write(tmp_path / name, videos, shard_bytes=4096).written
    x, y = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("x", "y"))
    assert x == y
    assert len(x) == 5
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "x").iterdir()}
    report = write(tmp_path / "x", videos, shard_bytes=4096)
    assert not report.written
    assert report.num_bytes == sum(len(data) for name, data in x.items() if name.endswith(".tar"))
    assert before == {p.name: p.stat().st_mtime_ns for p in (tmp_path / "x").iterdir()}


def test_an_interrupted_run_is_finished_and_other_inputs_are_refused(tmp_path, videos):
    write(tmp_path / "x", videos, shard_bytes=4096)
    whole = {p.name: p.read_bytes() for p in (tmp_path / "x").iterdir()}
    (tmp_path / "x/_WRITTEN.json").unlink()
    (tmp_path / "x/shard-000001.tar").unlink()
    assert write(tmp_path / "x", videos, shard_bytes=4096).written
    assert whole == {p.name: p.read_bytes() for p in (tmp_path / "x").iterdir()}

    with pytest.raises(ValueError, match="other inputs"):
        write(tmp_path / "x", videos, RECORDS[:2], shard_bytes=4096)
    (tmp_path / "x/_WRITTEN.json").unlink()
    with pytest.raises(ValueError, match="other shards"):
        write(tmp_path / "x", videos, RECORDS[:1])


@given(sizes=st.lists(st.integers(0, 5000), min_size=1, max_size=30), shard_bytes=st.integers(1, 20_000))
def test_shards_hold_all_samples_in_order_within_their_size(sizes, shard_bytes):
    records = [record(f"{number}.mp4") for number in range(len(sizes))]
    plan = plan_shards(records, {f"{n}.mp4": size for n, size in enumerate(sizes)}, shard_bytes=shard_bytes)
    assert [item for shard in plan for item in shard] == records
    for shard in plan:
        members = sum(1024 + 512 + -(-sizes[records.index(item)] // 512) * 512 for item in shard)
        assert len(shard) == 1 or members <= shard_bytes
