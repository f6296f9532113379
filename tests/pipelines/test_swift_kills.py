"""A store on disk whose servers are killed while they are read from and written to."""

import threading
import time
import uuid
from collections.abc import Iterator

import numpy as np
import pytest

from pipelines import object_store, storage
from pipelines.indexing import IndexSettings, index_shards
from pipelines.manifest import load_manifest
from tests import servers
from tests.pipelines.test_tarwalk import make_tar
from tests.rows import videos_of_rows
from tests.swift import Swift, swift_parts

NUM_VIDEOS, NUM_SHARDS = 24, 3


@pytest.fixture(scope="module")
def swift(tmp_path_factory) -> Iterator[Swift]:
    with swift_parts(tmp_path_factory.mktemp("swift")) as swift, pytest.MonkeyPatch.context() as patch:
        servers.use_s3(swift.env, patch)
        yield swift


@pytest.fixture(scope="module")
def shard_set(swift) -> tuple[str, list[bytes]]:
    """(URL, the videos of all rows)."""
    rng, url = np.random.default_rng(0), f"s3://{servers.BUCKET}/{uuid.uuid4().hex}"
    videos = [rng.bytes(400_000) for _ in range(NUM_VIDEOS)]
    size = NUM_VIDEOS // NUM_SHARDS
    for shard in range(NUM_SHARDS):
        members = [(f"{n:03d}.mp4", video) for n, video in enumerate(videos)][shard * size : (shard + 1) * size]
        storage.write_bytes(f"{url}/{shard}.tar", make_tar(members))
    index_shards(url)
    return url, videos


@pytest.mark.slow
def test_the_ends_of_objects_are_told_alike(swift):
    url = f"s3://{servers.BUCKET}/{uuid.uuid4().hex}"
    for data in (b"", b"x", bytes(range(256)) * 40):
        storage.write_bytes(url, data)
        assert storage.read_bytes(url) == data
        for start, length in [(0, 1), (0, 20_000), (len(data), 5), (len(data) + 9, 5), (max(0, len(data) - 3), 9)]:
            assert storage.read_bytes(url, start=start, length=length) == data[start : start + length]


def outage(swift: Swift, name: str, seconds: float) -> threading.Thread:
    """Kill a server now, and start it again on a thread of its own."""
    swift.kill(name)

    def restart() -> None:
        time.sleep(seconds)
        swift.start(name)

    thread = threading.Thread(target=restart)
    thread.start()
    return thread


@pytest.mark.slow
@pytest.mark.parametrize("name", ["object", "container", "account", "proxy"])
def test_reading_goes_on_after_a_server_was_killed(swift, shard_set, name):
    url, videos = shard_set
    got, restart = [], None
    # Small windows, so that most of the set is still to be read when the server goes.
    for video in videos_of_rows(load_manifest(url), range(NUM_VIDEOS), window_bytes=1 << 20, max_range_bytes=1 << 19):
        got.append(video)
        if len(got) == 3:
            restart = outage(swift, name, seconds=3)
    assert restart is not None
    restart.join()
    assert got == videos


@pytest.mark.slow
@pytest.mark.parametrize("name", ["object", "container", "proxy"])
def test_an_index_and_its_writes_go_on_after_a_server_was_killed(swift, shard_set, name):
    url, videos = shard_set
    wanted = load_manifest(url).digest
    restart = outage(swift, name, seconds=3)
    report = index_shards(url, IndexSettings(incremental=False))
    restart.join()
    assert (report.digest, report.num_ok, report.bad_shards) == (wanted, len(videos), [])
    assert load_manifest(url).digest == wanted


@pytest.mark.slow
@pytest.mark.parametrize("name", ["object", "proxy"])
def test_a_server_that_stays_away_is_told_in_time(swift, shard_set, name, monkeypatch):
    url, _ = shard_set
    manifest = load_manifest(url)
    monkeypatch.setattr(object_store, "BOUNDS", object_store.Bounds(patience_s=4, max_pause_s=1))
    swift.kill(name)
    start = time.monotonic()
    try:
        with pytest.raises(ConnectionError, match=rf"no sound answer.*{url}/\d\.tar"):
            list(videos_of_rows(manifest, range(NUM_VIDEOS)))
    finally:
        swift.start(name)
    assert time.monotonic() - start < 30
