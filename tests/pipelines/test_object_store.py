"""Whatever a store does to a single request: its true answer, or an error that names the object, in bounded time."""

import contextlib
import os
import re
import time
import traceback
import uuid

import pytest
import s3fs.core

from pipelines import object_store, storage
from pipelines.object_store import Bounds, ObjectStore, connect
from tests import servers
from tests.fault_proxy import Rule
from tests.faults import Announced, Cut, Drip, Reset, Resized, Shifted, Silence, Status, Whole

BUSY = [Status(503, "SlowDown"), Status(500), Status(429, "TooManyRequests"), Status(400, "RequestTimeout")]
LOST = [Silence(), Reset(), Reset(after=0), Reset(after=1000), Cut(after=1000), Announced(by=50)]
WRONG = [Resized(by=-50), Resized(by=50), Announced(by=-50), Whole(), Shifted(by=512)]
SPOILED = [*BUSY, *LOST, *WRONG, Drip()]
LASTING = [Status(503, "SlowDown"), Silence(), Reset(), Cut(after=1000), Resized(by=-50), Whole(), Drip()]
TWICE = range(2)
LIMIT_S = 15
"""Far above what ``BOUNDS`` of the fixture allow, far below what s3fs and botocore would take."""


@pytest.fixture
def stored(faulty_s3):
    """(URL of an object, its bytes)."""
    url, data = f"s3://{servers.BUCKET}/{uuid.uuid4().hex}/a shard+1.tar", os.urandom(5000)
    storage.write_bytes(url, data)
    return url, data


def whole_text(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


@contextlib.contextmanager
def in_time():
    start = time.monotonic()
    yield
    assert time.monotonic() - start < LIMIT_S


@pytest.mark.parametrize("fault", SPOILED, ids=str)
def test_faults_that_pass_are_survived(faulty_s3, stored, fault):
    url, data = stored
    times = 1 if isinstance(fault, (Silence, Drip)) else 2
    faulty_s3.rules = [Rule(key="*.tar", attempts=range(times), fault=fault)]
    assert storage.read_bytes(url, start=100, length=2000) == data[100:2100]
    assert faulty_s3.met(type(fault)) == times
    # A body that is longer than announced also spoils what comes next on its connection.
    (tries,) = faulty_s3.tries("*.tar")
    assert tries >= 3 if isinstance(fault, Announced) else tries == times + 1


@pytest.mark.parametrize("fault", LASTING, ids=str)
def test_faults_that_last_are_told_in_time_with_the_object(faulty_s3, stored, fault):
    url, _ = stored
    faulty_s3.rules = [Rule(key="*.tar", fault=fault)]
    with in_time(), pytest.raises(ConnectionError, match=r"no sound answer.*start the same command again") as caught:
        storage.read_bytes(url, start=100, length=2000)
    assert url in str(caught.value)
    # A kept connection that ends without an answer is no try yet: aiohttp asks again on another one.
    assert 2 <= faulty_s3.tries("*.tar")[0] <= 2 * object_store.BOUNDS.max_tries


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
def test_what_is_forbidden_is_told_at_once(faulty_s3, stored, method):
    url, data = stored
    faulty_s3.rules = [Rule(key="*.tar", method=method, fault=Status(403, "AccessDenied"))]
    call = {"GET": storage.read_bytes, "HEAD": storage.size, "PUT": lambda url: storage.write_bytes(url, data)}[method]
    with pytest.raises(PermissionError, match="check the credentials") as caught:
        call(url)
    assert caught.value.filename == url
    assert url in str(caught.value)
    assert faulty_s3.met(Status) == 1


def test_what_is_not_there_is_told_at_once(faulty_s3, stored):
    url = stored[0] + ".gone"
    with pytest.raises(FileNotFoundError) as caught:
        storage.read_bytes(url)
    assert caught.value.filename == url
    assert faulty_s3.tries("*.gone") == [1]


def test_the_end_of_an_object_is_told_from_a_short_answer(faulty_s3, stored):
    url, data = stored
    assert storage.read_bytes(url, start=4900, length=1000) == data[4900:]
    assert storage.read_bytes(url, start=5000, length=1000) == b""
    faulty_s3.rules = [Rule(key="*.tar", fault=Resized(by=-50))]
    with pytest.raises(ConnectionError, match=r"got 50 bytes under 'bytes 4900-4999/5000'"):
        storage.read_bytes(url, start=4900, length=1000)
    # A refused range proves nothing either.
    faulty_s3.rules = [Rule(key="*.tar", fault=Status(416, "InvalidRange"))]
    with pytest.raises(ConnectionError, match="got no bytes at 4900"):
        storage.read_bytes(url, start=4900, length=1000)


def test_a_whole_object_is_read_by_ranges_that_prove_it(faulty_s3, stored):
    url, data = stored
    faults = [Whole(), Resized(by=-50), Resized(by=-5000)]
    faulty_s3.rules = [Rule(key="*.tar", attempts=range(1), fault=fault) for fault in faults]
    assert storage.read_bytes(url) == data
    assert faulty_s3.tries("*.tar") == [4]


@pytest.mark.parametrize("fault", [Status(503, "SlowDown"), Reset(), Resized(by=-100)], ids=str)
def test_listings_and_sizes_are_whole_or_errors(faulty_s3, fault):
    folder = f"s3://{servers.BUCKET}/{uuid.uuid4().hex}"
    urls = [f"{folder}/{number}" for number in range(3)]
    for url in urls:
        storage.write_bytes(url, b"data")
    rules = [Rule(key="", query="list-type", attempts=range(1), fault=fault)]
    if not isinstance(fault, Resized):
        rules.append(Rule(key="*/2", method="HEAD", attempts=range(1), fault=fault))
    faulty_s3.rules = rules
    assert storage.list_files(folder) == urls
    assert storage.size(urls[2]) == 4
    assert faulty_s3.met(type(fault)) == len(rules)
    faulty_s3.rules = [Rule(key="", query="list-type", fault=fault), Rule(key="*/2", method="HEAD", fault=fault)]
    with in_time(), pytest.raises(ConnectionError, match=folder):
        storage.list_files(folder)
    if not isinstance(fault, Resized):
        with in_time(), pytest.raises(ConnectionError, match=urls[2]):
            storage.exists(urls[2])


@pytest.mark.parametrize("fault", [BUSY[0], BUSY[3], Reset(), Silence()], ids=str)
def test_writes_are_tried_again_also_where_only_the_answer_was_lost(faulty_s3, stored, fault):
    url, data = stored[0], os.urandom(3000)
    times = 1 if isinstance(fault, Silence) else 2
    faulty_s3.rules = [Rule(key="*.tar", method="PUT", attempts=range(times), fault=fault)]
    storage.write_bytes(url, data)
    assert faulty_s3.met(type(fault)) == times
    assert storage.read_bytes(url) == data


def test_a_write_that_never_comes_through_is_told_in_time(faulty_s3, stored):
    faulty_s3.rules = [Rule(key="*.tar", method="PUT", fault=Status(503, "SlowDown"))]
    with in_time(), pytest.raises(ConnectionError, match=f"no sound answer.*{re.escape(stored[0])}"):
        storage.write_bytes(stored[0], b"other")
    assert storage.read_bytes(stored[0]) == stored[1]


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(s3fs.core, "calculate_chunksize", lambda *_, **__: 5 << 20)


def at_end(fault):
    return [Rule(key="*", method="POST", query="uploadId", attempts=range(1), fault=fault)]


@pytest.mark.parametrize(
    ("rules", "num_begun"),
    [
        ([Rule(key="*", method="POST", query="uploads", attempts=TWICE, fault=Status(503, "SlowDown"))], 3),
        ([Rule(key="*", method="PUT", query="partNumber=2", attempts=TWICE, fault=Reset())], 1),
        ([Rule(key="*", method="PUT", query="partNumber=1", attempts=range(1), fault=Silence())], 1),
        ([Rule(key="*", method="POST", query="uploadId", attempts=TWICE, fault=Status(500))], 1),
        ([*at_end(Reset()), *at_end(Status(404, "NoSuchUpload"))], 1),
        (at_end(Status(404, "NoSuchUpload")), 2),
    ],
    ids=["begin", "part", "silent part", "end", "answer to the end", "all of it"],
)
def test_large_objects_are_whole_whatever_was_lost_on_the_way(faulty_s3, small_parts, tmp_path, rules, num_begun):
    url, data = f"s3://{servers.BUCKET}/{uuid.uuid4().hex}", os.urandom(11 << 20)
    (tmp_path / "large").write_bytes(data)
    faulty_s3.rules = rules
    storage.upload(tmp_path / "large", url)
    assert sum(bool(seen.fault) for seen in faulty_s3.log) == sum(len(rule.attempts) for rule in rules)
    assert storage.read_bytes(url) == data
    assert sum(seen.method == "POST" and "uploads" in seen.query for seen in faulty_s3.log) == num_begun


def test_a_large_object_that_cannot_be_written_does_not_appear(faulty_s3, small_parts, tmp_path):
    url = f"s3://{servers.BUCKET}/{uuid.uuid4().hex}"
    (tmp_path / "large").write_bytes(bytes(11 << 20))
    faulty_s3.rules = [Rule(key="*", method="PUT", query="partNumber=2", fault=Status(503, "SlowDown"))]
    with in_time(), pytest.raises(ConnectionError, match=url):
        storage.upload(tmp_path / "large", url)
    assert not storage.exists(url)


def test_an_object_that_changes_between_two_pieces_is_never_mixed(faulty_s3, stored):
    url, data = stored
    pieces = connect().read_pieces(url.removeprefix("s3://"), piece_bytes=2000)
    assert next(pieces) == data[:2000]
    storage.write_bytes(url, os.urandom(5000))
    with pytest.raises(OSError, match="written anew") as caught:
        list(pieces)
    assert caught.value.filename == url


def test_pieces_are_the_object(faulty_s3, stored):
    url, data = stored
    path = url.removeprefix("s3://")
    for piece_bytes in (1, 1000, 4999, 5000, 5001)[1:]:
        assert b"".join(connect().read_pieces(path, piece_bytes=piece_bytes)) == data
        assert b"".join(connect().read_pieces(path, start=7, stop=4003, piece_bytes=piece_bytes)) == data[7:4003]
    storage.write_bytes(url, b"")
    assert list(connect().read_pieces(path)) == []


@pytest.fixture
def other_clients(monkeypatch):
    """Clients that were made for what a test does to the environment are forgotten."""
    yield monkeypatch
    monkeypatch.undo()
    ObjectStore.clear_instance_cache()


def test_no_error_shows_credentials_or_queries(faulty_s3, small_parts, tmp_path, other_clients):
    (port,) = servers.free_ports(1)
    secret, url = "wJalrEXAMPLE", f"s3://{servers.BUCKET}/x"
    env = servers.s3_env(f"http://someone:{secret}@127.0.0.1:{port}", key="AKIDEXAMPLE", secret=secret)
    servers.use_s3(env, other_clients)
    with pytest.raises(ConnectionError, match=url) as caught:
        storage.read_bytes(url)
    texts = [whole_text(caught.value)]
    servers.use_s3(env | {"AWS_ENDPOINT_URL": faulty_s3.url}, other_clients)
    (tmp_path / "large").write_bytes(bytes(11 << 20))
    faulty_s3.rules = [Rule(key="*", method="PUT", query="partNumber=2", fault=Silence())]
    with pytest.raises(ConnectionError, match=url) as caught:
        storage.upload(tmp_path / "large", url)
    texts.append(whole_text(caught.value))
    for text in texts:
        assert not any(word in text for word in (secret, "AKIDEXAMPLE", "uploadId", "Signature"))


def test_no_credentials_are_no_reason_to_wait(faulty_s3, other_clients):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        other_clients.delenv(name)
    other_clients.setenv("AWS_EC2_METADATA_DISABLED", "true")
    other_clients.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    other_clients.setenv("AWS_CONFIG_FILE", os.devnull)
    ObjectStore.clear_instance_cache()
    with pytest.raises(ConnectionError, match=r"cannot ask the store for s3://.*/x: NoCredentialsError.*credentials"):
        storage.read_bytes(f"s3://{servers.BUCKET}/x")
    assert faulty_s3.log == []


def test_a_dead_store_is_told_within_two_minutes():
    bounds = Bounds()
    assert bounds.patience_s + max(bounds.silence_s, bounds.window_s, bounds.connect_s) <= 120
    assert bounds.limit_s(50 << 20) >= 600, "a part of an upload over a slow line"
