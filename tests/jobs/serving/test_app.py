"""The application without Ray: searches, media, figures, limits, and what strangers may try."""

import json
import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from jobs.serve import Args
from jobs.serving.app import make_app
from jobs.serving.errors import busy
from jobs.serving.limits import ServeLimits
from pipelines.manifest import load_manifest
from tests.served import BROKEN, HOSTILE, NUM_VIDEOS, REJECTED, caption_of, film, open_world

LIMITS = ServeLimits(max_range_bytes=1000, piece_bytes=300, max_whole_bytes=1 << 20)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("world")


@pytest.fixture(scope="module")
def service(root):
    return open_world(root, limits=LIMITS)


@pytest.fixture(scope="module")
def client(service):
    with TestClient(make_app(service), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def uids(root):
    return load_manifest(str(root / "shards")).table["uid"].to_pylist()


def test_a_search_says_what_was_found_and_by_which_model(client, service, uids):
    answer = client.post("/search", json={"query": caption_of(4), "top": 3})
    told = answer.json()
    assert answer.status_code == 200
    assert (told["model_id"], told["num_videos"]) == (service.searcher.model_id, NUM_VIDEOS - 1)
    assert told["query"] == caption_of(4)
    assert told["timing"]["batch_size"] == 1
    first = told["results"][0]
    assert [result["rank"] for result in told["results"]] == [1, 2, 3]
    assert (first["uid"], first["video_id"], first["captions"][0]) == (uids[4], "video4", caption_of(4))
    assert first["score"] == pytest.approx(1, abs=1e-5)
    for link in ("thumbnail", "video", "tokens"):
        assert client.get(first[link]).status_code == 200


def test_more_like_a_video_and_conditions(client, uids):
    where = [
        {"column": "start_s", "op": ">=", "value": "0.5"},
        {"column": "key", "op": "in", "value": ["000001", "000003"]},
    ]
    told = client.post("/search", json={"like": uids[1], "where": where}).json()
    assert [(result["video_id"], result["start_s"], result["end_s"]) for result in told["results"]] == [
        ("video3", 1, 2)
    ]
    assert (
        client.post("/search", json={"query": "x", "where": [{"column": "key", "op": "==", "value": ""}]}).json()[
            "results"
        ]
        == []
    )


@pytest.mark.parametrize(
    ("body", "got"),
    [
        ({}, "neither query nor like"),
        ({"query": "a", "like": "b"}, "both query and like"),
        ({"query": "  \n "}, "neither query nor like"),
        ({"query": "x" * 501}, "a query of 501 characters"),
        ({"query": "a", "top": 0}, "top=0"),
        ({"query": "a", "top": 101}, "top=101"),
        ({"query": "a", "top": 1e3}, "top = 1000.0"),
        ({"query": "a", "top": True}, "top = True"),
        ({"query": 7}, "query = 7"),
        ({"query": "a", "tops": 3}, "tops = 3"),
        ({"query": "a", "rerank_top": 3, "top": 5}, "rerank_top=3"),
        ({"query": "a", "rerank_top": 20}, "rerank"),
        ({"like": "a", "rerank_top": 20}, "rerank_top=20 with like"),
        ({"query": "a", "where": [{"column": "key", "op": "==", "value": "1"}] * 9}, "9 conditions"),
        ({"query": "a", "where": [{"column": "key", "op": "in", "value": []}]}, "0 values"),
        ({"query": "a", "where": [{"column": "key", "op": "or 1=1", "value": "1"}]}, "op='or 1=1'"),
        ({"query": "a", "where": [{"column": "key", "op": "==", "value": {"x": 1}}]}, "where.0.value"),
        ({"query": "a", "where": [{"column": "vector", "op": "==", "value": 1}]}, "a condition on 'vector'"),
        ({"query": "a", "where": [{"column": "start_s", "op": ">", "value": "soon"}]}, "the condition"),
        ({"like": "../../etc/passwd"}, "video '../../etc/passwd'"),
        ([], "a body that is no JSON object"),
    ],
)
def test_wrong_requests_are_told_what_is_wrong(client, body, got):
    answer = client.post("/search", json=body)
    error = answer.json()["error"]
    assert answer.status_code == 422
    assert error["code"] == "bad_request"
    assert got in error["got"]
    assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    "content", [b"{", b"", b"[" * 9000, b'{"query": "\\ud800"}', b'{"query": "a", "top": NaN}', b"\xff\xfe", b"null"]
)
def test_bodies_that_are_no_requests(client, content):
    answer = client.post("/search", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]["code"] == "bad_request"


def test_large_bodies_are_refused(client):
    def pieces():
        for _ in range(40):
            yield b" " * 1000

    for content in (b" " * 20_000, pieces()):
        answer = client.post("/search", content=content, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


def test_health_tells_the_model(client, service):
    told = client.get("/healthz").json()
    assert (told["status"], told["model_id"]) == ("ok", service.searcher.model_id)
    assert told["columns"]["start_s"] == "numbers"
    assert (told["draws_tokens"], told["reranks"]) == (True, False)


@pytest.mark.parametrize("span", ["0-", "0-99", "100-1099", "-50", "1000-"])
def test_videos_come_by_ranges(client, uids, span):
    whole = film(3)
    answer = client.get(f"/videos/{uids[3]}", headers={"Range": f"bytes={span}"})
    ((first, last, size),) = re.findall(r"^bytes (\d+)-(\d+)/(\d+)$", answer.headers["content-range"])
    first, last, size = int(first), int(last), int(size)
    assert (answer.status_code, answer.headers["content-type"], size) == (206, "video/mp4", len(whole))
    assert answer.content == whole[first : last + 1]
    assert len(answer.content) <= LIMITS.max_range_bytes
    assert first == (len(whole) - 50 if span == "-50" else int(span.split("-")[0]))


def test_a_whole_video_and_its_conditions(client, uids):
    url, whole = f"/videos/{uids[2]}", film(2)
    answer = client.get(url)
    etag = answer.headers["etag"]
    assert (answer.status_code, answer.content, answer.headers["accept-ranges"]) == (200, whole, "bytes")
    head = client.head(url)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(whole)))
    assert client.get(url, headers={"If-None-Match": etag}).status_code == 304
    past = client.get(url, headers={"Range": f"bytes={len(whole)}-"})
    assert (past.status_code, past.headers["content-range"]) == (416, f"bytes */{len(whole)}")
    ranged = {"Range": "bytes=0-9"}
    assert client.get(url, headers=ranged | {"If-Range": etag}).status_code == 206
    assert client.get(url, headers=ranged | {"If-Range": '"another"'}).content == whole


def test_pictures_are_kept_and_asked_for_again(client, uids):
    answer = client.get(f"/thumbnails/{uids[1]}.jpg")
    assert answer.content.startswith(b"\xff\xd8\xff")
    assert "max-age" in answer.headers["cache-control"]
    again = client.get(f"/thumbnails/{uids[1]}.jpg", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get(f"/tokens/{uids[1]}.png").content.startswith(b"\x89PNG")


@pytest.mark.parametrize("route", ["/videos/{}", "/thumbnails/{}.jpg", "/tokens/{}.png"])
@pytest.mark.parametrize("uid", ["x", "0" * 32, "..%2f..%2fetc%2fpasswd", "%00", "shard-000000.tar", "é" * 32])
def test_only_uids_of_the_manifest_are_served(client, route, uid):
    answer = client.get(route.format(uid))
    assert (answer.status_code, answer.json()["error"]["code"]) in [(404, "no_video"), (404, "no_route")]


def test_what_cannot_be_shown_says_why(client, uids):
    assert client.get(f"/videos/{uids[REJECTED]}").status_code == 404
    for kind in ("thumbnails/{}.jpg", "tokens/{}.png"):
        answer = client.get(f"/{kind}".format(uids[BROKEN]))
        assert (answer.status_code, answer.json()["error"]["code"]) == (415, "bad_container")
    assert client.get(f"/videos/{uids[BROKEN]}").status_code == 200


def test_a_shard_that_goes_away_is_a_404_and_comes_back(client, uids, root):
    shard = Path(load_manifest(str(root / "shards")).root, "shard-000001.tar")
    away = shard.rename(shard.with_suffix(".away"))
    try:
        for link in (f"/videos/{uids[9]}", f"/thumbnails/{uids[8]}.jpg"):
            answer = client.get(link)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "missing_shard")
    finally:
        away.rename(shard)
    for link in (f"/videos/{uids[9]}", f"/thumbnails/{uids[8]}.jpg", "/healthz"):
        assert client.get(link).status_code == 200


def test_a_store_that_fails_is_a_502(client, service, uids, monkeypatch):
    def refuse(_manifest, _sample, **_options):
        raise PermissionError("AWS_SECRET=hush")

    monkeypatch.setattr("pipelines.media.open_video", refuse)
    for link in (f"/videos/{uids[10]}", f"/thumbnails/{uids[10]}.jpg"):
        answer = client.get(link)
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "store_failed")
        assert "hush" not in answer.text
    monkeypatch.undo()
    assert client.get(f"/thumbnails/{uids[10]}.jpg").status_code == 200


def test_every_answer_carries_the_security_headers(client, uids):
    for link in ("/", "/page.js", "/nowhere", f"/videos/{uids[2]}", f"/thumbnails/{uids[2]}.jpg", "/metrics"):
        headers = client.get(link).headers
        assert headers["x-content-type-options"] == "nosniff"
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe-inline" not in policy.split("script-src")[-1].split(";")[0] or "script-src" not in policy


def test_a_service_answers_to_its_names_alone(service):
    loopback, named = Args(corpus="corpus").hosts, Args(corpus="corpus", allowed_hosts=("*.example.org",)).hosts
    for hosts, host, status in [
        (loopback, "127.0.0.1:8000", 200),
        (loopback, "localhost:8000", 200),
        (loopback, "[::1]:8000", 200),
        (loopback, "rebound.example.com:8000", 400),
        (named, "search.example.org", 200),
        (named, "127.0.0.1:8000", 400),
        (Args(corpus="corpus", host="0.0.0.0").hosts, "anything", 200),  # noqa: S104 - nothing listens
    ]:
        with TestClient(make_app(service, allowed_hosts=hosts)) as client:
            answer = client.get("/healthz", headers={"Host": host})
        assert answer.status_code == status, (hosts, host)
        assert "nosniff" in answer.headers["x-content-type-options"]


def test_the_page_brings_everything_it_needs(client):
    page = client.get("/").text
    assert re.findall(r"https?://", page) == []
    assert "<script>" not in page
    for link in re.findall(r'(?:href|src)="(/[^"]*)"', page):
        assert client.get(link).status_code == 200
    assert "innerHTML" not in client.get("/page.js").text
    etag = client.get("/page.js").headers["etag"]
    assert client.get("/page.js", headers={"If-None-Match": etag}).status_code == 304


def test_captions_come_as_they_are(client):
    told = client.post("/search", json={"like": "video0", "top": 11})
    assert HOSTILE in [caption for result in told.json()["results"] for caption in result["captions"]]
    assert told.headers["content-type"] == "application/json"


def test_figures_count_by_route_and_status(client):
    def figure(name):
        found = re.search(rf"^{re.escape(name)} (\S+)$", client.get("/metrics").text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    ok, refused = (f'fpig_requests_total{{route="/search",status="{status}"}}' for status in (200, 422))
    bad = 'fpig_errors_total{code="bad_request"}'
    before = [figure(name) for name in (ok, refused, bad, "fpig_batch_size_count")]
    client.post("/search", json={"query": "a"})
    client.post("/search", json={})
    after = [figure(name) for name in (ok, refused, bad, "fpig_batch_size_count")]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 1, 1]
    assert figure("fpig_index_videos") == NUM_VIDEOS - 1
    assert figure("fpig_requests_in_flight") == 1
    client.get("/made/up/by/a/stranger")
    assert "stranger" not in client.get("/metrics").text


@pytest.mark.parametrize("error", [busy("searches", 128), RuntimeError("at /home/somebody/secret.py")])
def test_failures_are_told_without_a_trace(service, error):
    async def fail(_):
        raise error

    with TestClient(make_app(service, search=fail), raise_server_exceptions=False) as client:
        answer = client.post("/search", json={"query": "a"})
        assert client.get("/healthz").status_code == 200
    told = json.loads(answer.text)["error"]
    assert "secret" not in answer.text
    if isinstance(error, RuntimeError):
        assert (answer.status_code, told["code"]) == (500, "failed")
        assert "nosniff" in answer.headers["x-content-type-options"]
    else:
        assert (answer.status_code, told["code"], answer.headers["retry-after"]) == (503, "busy", "1")
