"""``write_shards`` with videos that lie in a bucket, to shards in a bucket: what a copy on this machine gives."""

import uuid

import pytest

from jobs import index_shards, write_shards
from jobs.cli import DONE
from pipelines import storage
from pipelines.manifest import load_manifest
from tests import servers
from tests.fault_proxy import Rule
from tests.faults import Cut, Reset, Silence, Status
from tests.rows import videos_of_rows
from tests.worlds import video_bytes

NUM_VIDEOS = 5


@pytest.fixture
def listed(faulty_s3, tmp_path) -> tuple[str, write_shards.Args]:
    """Videos, a list of them and a table of captions in a bucket -> (the folder there, the job's arguments)."""
    url = f"s3://{servers.BUCKET}/{uuid.uuid4().hex}"
    places = [f"{url}/day {number}/clip{number}.mp4" for number in range(NUM_VIDEOS)]
    for number, place in enumerate(places):
        storage.write_bytes(place, video_bytes(number))
    storage.write_bytes(f"{url}/videos.txt", "\n".join(places).encode())
    rows = [f"clip{number}.mp4,caption {number}" for number in range(NUM_VIDEOS)]
    storage.write_bytes(f"{url}/captions.csv", "\n".join(["video,caption", *rows]).encode())
    tables = f"{url}/videos.txt", f"{url}/captions.csv"
    return url, write_shards.Args(videos=tables[0], captions=tables[1], out=f"{url}/shards", shard_mb=0.02)


def samples_of(url: str) -> dict[str, tuple[list[str], bytes]]:
    """Captions and video of every sample, by the name of its video."""
    index_shards.main(index_shards.Args(root=url))
    manifest = load_manifest(url)
    found = {}
    for row, video in zip(manifest.table.to_pylist(), videos_of_rows(manifest, range(manifest.num_rows)), strict=True):
        assert isinstance(video, bytes)
        found[row["video_id"]] = row["captions"], video
    return found


WANTED = {f"clip{number}": ([f"caption {number}"], video_bytes(number)) for number in range(NUM_VIDEOS)}


def by_name(found: dict[str, tuple[list[str], bytes]]) -> dict[str, tuple[list[str], bytes]]:
    return {video_id.rpartition("/")[2].removesuffix(".mp4"): sample for video_id, sample in found.items()}


def test_from_a_list_of_urls_to_shards_in_a_bucket(faulty_s3, listed):
    url, args = listed
    faults = [Status(503, "SlowDown"), Reset(after=100), Cut(after=100)]
    faulty_s3.rules = [Rule(key="*.mp4", attempts=range(1), fault=fault) for fault in faults]
    faulty_s3.rules += [Rule(key="*.tar", method="PUT", attempts=range(1), fault=Reset())]
    report = write_shards.main(args)
    assert report.exit_code == DONE
    assert report.summary["num_rejected"] == 0
    faulty_s3.forget()
    assert len(storage.list_files(f"{url}/shards", suffix=".tar")) > 1
    assert by_name(samples_of(f"{url}/shards/all")) == WANTED
    again = write_shards.main(args)
    assert again.exit_code == DONE
    assert not any(seen.method == "PUT" and seen.key.endswith(".tar") for seen in faulty_s3.log)


def test_a_source_that_cannot_be_read_stops_the_job_and_is_not_left_out(faulty_s3, listed):
    url, args = listed
    for fault, error in ((Silence(), ConnectionError), (Status(403, "AccessDenied"), PermissionError)):
        faulty_s3.rules = [Rule(key="*/clip3.mp4", fault=fault)]
        with pytest.raises(error, match=f"{url}/day 3/clip3.mp4"):
            write_shards.main(args)
    faulty_s3.forget()
    assert write_shards.main(args).exit_code == DONE
    assert by_name(samples_of(f"{url}/shards/all")) == WANTED
