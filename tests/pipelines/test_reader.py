import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import storage
from pipelines.indexing import index_shards
from pipelines.limits import VideoLimits
from pipelines.manifest import load_manifest
from pipelines.quarantine import SampleError
from pipelines.reader import merge_ranges, read_videos
from tests.pipelines.test_tarwalk import make_tar


@pytest.fixture
def shard_set(tmp_path):
    """(manifest, the video of every row, None where there is none)."""
    rng, videos = np.random.default_rng(0), []
    for shard in range(3):
        members = []
        for number in range(8):
            video = rng.bytes(int(rng.integers(1, 5000)))
            is_bad = shard == 1 and number == 3
            members += [(f"{number}.mp4", b"" if is_bad else video), (f"{number}.json", b"{}")]
            videos.append(None if is_bad else video)
        (tmp_path / f"{shard}.tar").write_bytes(make_tar(members))
    index_shards(str(tmp_path))
    return load_manifest(str(tmp_path)), videos


@pytest.mark.parametrize("max_gap_bytes", [0, 2000, 1 << 20])
@pytest.mark.parametrize("max_range_bytes", [1, 10_000, 1 << 20])
def test_any_rows_in_any_order_come_back_in_that_order(shard_set, max_gap_bytes, max_range_bytes):
    manifest, videos = shard_set
    rows = np.random.default_rng(1).integers(0, 24, 40).tolist()
    options = {"max_gap_bytes": max_gap_bytes, "max_range_bytes": max_range_bytes}
    for row, got in zip(rows, read_videos(manifest, rows, **options), strict=True):
        if videos[row] is None:
            assert isinstance(got, SampleError)
            assert got.code == "empty_video"
        else:
            assert got == videos[row]


def test_no_rows_need_no_read(shard_set):
    assert read_videos(shard_set[0], []) == []


def test_neighbours_share_a_request(shard_set, monkeypatch):
    requests, read = [], storage.read_bytes
    monkeypatch.setattr(storage, "read_bytes", lambda url, **range_: requests.append(url) or read(url, **range_))
    read_videos(shard_set[0], range(16))
    assert len(requests) == 2


def codes(results):
    return [result.code if isinstance(result, SampleError) else "ok" for result in results]


def test_changed_cut_and_missing_shards_are_told_sample_by_sample(shard_set, tmp_path):
    manifest, videos = shard_set
    offset = manifest.table.column("video_offset").to_pylist()
    data = bytearray((tmp_path / "0.tar").read_bytes())
    data[offset[2]] ^= 1
    (tmp_path / "0.tar").write_bytes(data)
    os.truncate(tmp_path / "1.tar", offset[8 + 5] + len(videos[8 + 5]) - 1)
    (tmp_path / "2.tar").unlink()
    assert codes(read_videos(manifest, range(24))) == [
        *["ok", "ok", "changed_bytes", "ok", "ok", "ok", "ok", "ok"],
        *["ok", "ok", "ok", "empty_video", "ok", "short_read", "short_read", "short_read"],
        *["missing_shard"] * 8,
    ]


def test_what_is_too_large_is_not_read(shard_set, monkeypatch):
    manifest, videos = shard_set
    num_bytes, read, limit = [], storage.read_bytes, 2500

    def count(url, *, start, length):
        num_bytes.append(length)
        return read(url, start=start, length=length)

    monkeypatch.setattr(storage, "read_bytes", count)
    results = read_videos(manifest, range(24), max_gap_bytes=0, max_range_bytes=1, limits=VideoLimits(max_bytes=limit))
    wanted = ["empty_video" if v is None else "too_large" if len(v) > limit else "ok" for v in videos]
    assert "too_large" in wanted
    assert codes(results) == wanted
    assert sorted(num_bytes) == sorted(len(v) for v in videos if v and len(v) <= limit)


def test_an_outage_rejects_no_sample(shard_set, monkeypatch):
    def refuse(*_, **__):
        raise ConnectionError("no answer")

    monkeypatch.setattr(storage, "read_bytes", refuse)
    with pytest.raises(ConnectionError, match="no answer"):
        read_videos(shard_set[0], [0, 20])


samples = st.lists(
    st.fixed_dictionaries(
        {"shard": st.sampled_from("ab"), "video_offset": st.integers(0, 5000), "video_bytes": st.integers(0, 400)}
    )
)


@given(samples=samples, max_gap_bytes=st.integers(0, 500), max_range_bytes=st.integers(1, 3000))
def test_ranges_cover_every_video_once_within_their_bound(samples, max_gap_bytes, max_range_bytes):
    ranges = merge_ranges(samples, range(len(samples)), max_gap_bytes=max_gap_bytes, max_range_bytes=max_range_bytes)
    assert sorted(position for item in ranges for position in item.positions) == list(range(len(samples)))
    for item in ranges:
        assert len(item.positions) == 1 or item.stop - item.start <= max_range_bytes
        for position in item.positions:
            sample = samples[position]
            assert sample["shard"] == item.shard
            assert item.start <= sample["video_offset"] <= sample["video_offset"] + sample["video_bytes"] <= item.stop
