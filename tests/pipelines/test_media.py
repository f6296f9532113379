"""Videos are read by ranges of their shards, and only while the shard is the one that was indexed."""

from pathlib import Path

import pytest

from pipelines import storage
from pipelines.media import Media, media_type
from pipelines.quarantine import SampleError
from pipelines.reader import open_video
from pipelines.uid_rows import UidRows
from tests.worlds import PREPROCESS, video_bytes, write_shards

NUM_ROWS = 10


@pytest.fixture
def manifest(tmp_path):
    return write_shards(tmp_path, NUM_ROWS, flaws={3: "no_video", 4: "bad_container"})


def test_ranges_of_a_video_are_those_of_its_bytes(manifest, monkeypatch):
    sample, whole, asked = manifest.take([9]).to_pylist()[0], video_bytes(9), []
    read_bytes = storage.read_bytes

    def noting(url, *, start, length):
        asked.append(length)
        return read_bytes(url, start=start, length=length)

    monkeypatch.setattr(storage, "read_bytes", noting)
    read = open_video(manifest, sample)
    for start, length in [(0, 10), (5, 100), (len(whole) - 3, 3), (len(whole) - 3, 50), (len(whole), 5), (0, 1 << 40)]:
        assert read(start, length) == whole[start : start + length]
    assert asked == [512, 10, 100, 3, 3, 0, len(whole)]


def test_a_shard_that_is_gone_or_another(manifest):
    sample = manifest.take([2]).to_pylist()[0]
    shard = Path(manifest.root, sample["shard"])
    content = shard.read_bytes()
    shard.write_bytes(b"\0" * len(content))
    with pytest.raises(SampleError, match="changed_bytes"):
        open_video(manifest, sample)
    shard.write_bytes(content[: sample["video_offset"] + 20])
    with pytest.raises(SampleError, match="short_read"):
        open_video(manifest, sample)(0, 100)
    shard.unlink()
    with pytest.raises(SampleError, match="missing_shard"):
        open_video(manifest, sample)
    Path(manifest.url).unlink()
    with pytest.raises(FileNotFoundError):
        open_video(manifest, sample)


def test_rows_are_found_by_uid(manifest):
    rows, table = UidRows(manifest), manifest.table.to_pylist()
    assert len(rows) == NUM_ROWS - 1
    for sample in table:
        assert rows.find(sample["uid"]) == (sample if sample["status"] == "ok" else None)
    other = table[0]["uid"][:16] + "0" * 16
    for unknown in (other, "", "../../etc/passwd", table[0]["uid"].upper(), table[0]["uid"] + "0", "é" * 32):
        assert rows.find(unknown) is None


def test_stills_come_from_a_process_that_can_be_lost(manifest):
    media = Media(manifest=manifest, preprocess=PREPROCESS)
    sound, broken = manifest.take([0, 4]).to_pylist()
    assert media.still(sound).startswith(b"\xff\xd8\xff")
    assert media_type(sound) == "video/mp4"
    with pytest.raises(SampleError, match="bad_container"):
        media.still(broken)
