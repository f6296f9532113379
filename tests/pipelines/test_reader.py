import numpy as np
import pytest
from fsspec.core import url_to_fs
from hypothesis import given
from hypothesis import strategies as st

from pipelines import storage
from pipelines.indexing import index_shards
from pipelines.limits import VideoLimits
from pipelines.manifest import load_manifest
from pipelines.quarantine import SampleError
from pipelines.reader import merge_ranges
from tests.pipelines.test_tarwalk import make_tar
from tests.rows import videos_of_rows


def make_set(root_url):
    """(manifest, the video of every row, None where there is none)."""
    rng, videos = np.random.default_rng(0), []
    for shard in range(3):
        members = []
        for number in range(8):
            video = rng.bytes(int(rng.integers(1, 5000)))
            is_bad = shard == 1 and number == 3
            members += [(f"{number}.mp4", b"" if is_bad else video), (f"{number}.json", b"{}")]
            videos.append(None if is_bad else video)
        storage.write_bytes(storage.join(root_url, f"{shard}.tar"), make_tar(members))
    index_shards(root_url)
    return load_manifest(root_url), videos


@pytest.fixture(params=["file", "memory"])
def shard_set(request, tmp_path):
    """Read as files, and as objects of a store."""
    return make_set(f"{request.param}://{tmp_path}")


@pytest.fixture
def stored_set(tmp_path):
    return make_set(f"memory://{tmp_path}")


def change(manifest, shard, change):
    url = manifest.shard_url(shard)
    storage.write_bytes(url, change(storage.read_bytes(url)))


def remove(manifest, shard):
    filesystem, path = url_to_fs(manifest.shard_url(shard))
    filesystem.rm_file(path)


@pytest.mark.parametrize("verify", ["header", "sha256"])
@pytest.mark.parametrize("max_gap_bytes", [0, 2000, 1 << 20])
@pytest.mark.parametrize(
    ("max_range_bytes", "window_bytes"), [(1, 1), (10_000, 20_000), (1 << 20, 9000), (1 << 20, 1 << 20)]
)
def test_any_rows_in_any_order_come_back_in_that_order(shard_set, verify, max_gap_bytes, max_range_bytes, window_bytes):
    manifest, videos = shard_set
    rows = np.random.default_rng(1).integers(0, 24, 40).tolist()
    got = videos_of_rows(
        manifest,
        rows,
        verify=verify,
        max_gap_bytes=max_gap_bytes,
        max_range_bytes=max_range_bytes,
        window_bytes=window_bytes,
    )
    for row, video in zip(rows, got, strict=True):
        if videos[row] is None:
            assert isinstance(video, SampleError)
            assert video.code == "empty_video"
        else:
            assert video == videos[row]


def test_no_rows_need_no_read(shard_set):
    assert list(videos_of_rows(shard_set[0], [])) == []


def requests_of(monkeypatch):
    """The bytes of each request, as a list that grows."""
    num_bytes, read = [], storage.read_bytes

    def count(url, *, start, length):
        if url.endswith(".tar"):
            num_bytes.append(length)
        return read(url, start=start, length=length)

    monkeypatch.setattr(storage, "read_bytes", count)
    return num_bytes


def test_neighbours_share_a_request(stored_set, monkeypatch):
    requests = requests_of(monkeypatch)
    list(videos_of_rows(stored_set[0], range(16)))
    assert len(requests) == 2


def test_one_window_is_read_ahead_and_no_more(stored_set, monkeypatch):
    manifest, videos = stored_set
    requests = requests_of(monkeypatch)
    rows, used = [*range(8), *range(16, 24)] * 20, 0
    for video in videos_of_rows(manifest, rows, max_range_bytes=1, window_bytes=10_000):
        assert isinstance(video, bytes)
        used += len(video)
        assert sum(requests) - len(requests) * 512 <= used + 2 * 10_000
    assert used == sum(len(videos[row]) for row in rows)


def codes(results):
    return [result.code if isinstance(result, SampleError) else "ok" for result in results]


def test_changed_cut_and_missing_shards_are_told_sample_by_sample(shard_set):
    manifest, videos = shard_set
    offset = manifest.table.column("video_offset").to_pylist()
    change(manifest, "0.tar", lambda data: data[: offset[2]] + bytes([data[offset[2]] ^ 1]) + data[offset[2] + 1 :])
    change(manifest, "1.tar", lambda data: data[: offset[8 + 5] + len(videos[8 + 5]) - 1])
    remove(manifest, "2.tar")
    assert codes(videos_of_rows(manifest, range(24), verify="sha256")) == [
        *["ok", "ok", "changed_bytes", "ok", "ok", "ok", "ok", "ok"],
        *["ok", "ok", "ok", "empty_video", "ok", "short_read", "short_read", "short_read"],
        *["missing_shard"] * 8,
    ]


def test_a_header_that_is_gone_leaves_the_proof_to_the_digest(shard_set):
    manifest, videos = shard_set
    offset = manifest.table.column("video_offset").to_pylist()

    def rewrite(data):
        """Another video with the old one's size and place, a damaged header, and a header of another name."""
        changed = bytearray(data)
        changed[offset[1] : offset[1] + 4] = bytes(4)
        other = make_tar([("other.mp4", bytes(len(videos[1])))])
        changed[offset[1] - 512 : offset[1]] = other[:512]
        changed[offset[4] - 400] ^= 1
        changed[offset[5] - 512 : offset[5]] = make_tar([("other.mp4", videos[5])])[:512]
        return bytes(changed)

    change(manifest, "0.tar", rewrite)
    assert codes(videos_of_rows(manifest, range(8))) == ["ok", "changed_bytes", *["ok"] * 6]


def test_names_that_a_header_cannot_tell(tmp_path):
    names = ["long" * 40, "ünï", "folder/" * 20 + "x", "plain"]
    (tmp_path / "0.tar").write_bytes(
        make_tar([(f"{name}.{suffix}", name.encode()) for name in names for suffix in ("MP4", "txt")])
    )
    index_shards(str(tmp_path))
    assert list(videos_of_rows(load_manifest(str(tmp_path)), range(4))) == [name.encode() for name in names]


def test_what_is_too_large_is_not_read(stored_set, monkeypatch):
    manifest, videos = stored_set
    num_bytes, limit = requests_of(monkeypatch), 2500
    limits = VideoLimits(max_bytes=limit)
    results = codes(videos_of_rows(manifest, range(24), max_gap_bytes=0, max_range_bytes=1, limits=limits))
    wanted = ["empty_video" if v is None else "too_large" if len(v) > limit else "ok" for v in videos]
    assert "too_large" in wanted
    assert results == wanted
    assert sorted(num_bytes) == sorted(512 + len(v) for v in videos if v and len(v) <= limit)


def test_an_outage_rejects_no_sample(stored_set, monkeypatch):
    def refuse(*_, **__):
        raise ConnectionError("no answer")

    monkeypatch.setattr(storage, "read_bytes", refuse)
    with pytest.raises(ConnectionError, match="no answer"):
        list(videos_of_rows(stored_set[0], [0, 20]))


def test_a_set_that_is_away_rejects_no_sample(shard_set):
    manifest, _ = shard_set
    for name in ("0.tar", "1.tar", "2.tar", "manifest.parquet"):
        remove(manifest, name)
    with pytest.raises(FileNotFoundError, match=r"manifest|0\.tar"):
        list(videos_of_rows(manifest, range(24)))


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
