"""Requests that are answered together get what each would get alone."""

import pytest

from jobs.serving.batching import answer_batch
from jobs.serving.errors import ApiError
from jobs.serving.limits import ServeLimits
from jobs.serving.requests import SearchBody, check
from pipelines.corpus import ChangedError
from tests.served import caption_of, open_world

ASKED = (
    {"query": caption_of(3), "top": 2},
    {"query": caption_of(4), "top": 5},
    {"query": caption_of(4), "top": 3, "where": [{"column": "start_s", "op": ">=", "value": 0.5}]},
    {"query": "nothing", "where": [{"column": "no_such_column", "op": "==", "value": 1}]},
    {"like": "video2", "top": 3},
    {"like": "no such video"},
    {"query": caption_of(8), "top": 1, "rerank_top": 5},
    {"query": caption_of(9), "top": 1},
)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    return open_world(tmp_path_factory.mktemp("world"))


def requests():
    return [check(SearchBody.model_validate(asked), ServeLimits()) for asked in ASKED]


def test_a_batch_gives_what_each_request_gives_alone(service):
    together = answer_batch(service.searcher, requests())
    alone = [answer_batch(service.searcher, [request])[0] for request in requests()]
    for both, one, asked in zip(together, alone, ASKED, strict=True):
        assert both.batch_size == len(ASKED)
        if isinstance(one.found, ApiError):
            assert isinstance(both.found, ApiError)
            assert (both.found.status, both.found.got) == (422, one.found.got)
            continue
        assert not isinstance(both.found, ApiError)
        assert len(both.found) == asked["top"]
        assert [found.uid for found in both.found] == [found.uid for found in one.found]
        assert [found.score for found in both.found] == pytest.approx([found.score for found in one.found], abs=1e-5)
    assert [isinstance(answer.found, ApiError) for answer in together] == [False] * 3 + [True, False, True, True, False]


def test_queries_under_the_same_conditions_are_one_search(service, monkeypatch):
    asked = []
    search = service.searcher.search
    monkeypatch.setattr(
        service.searcher, "search", lambda queries, **options: asked.append(list(queries)) or search(queries, **options)
    )
    same = [requests()[0].model_copy(update={"query": word}) for word in "abcd"]
    answer_batch(service.searcher, same)
    assert asked == [["a", "b", "c", "d"]]


def test_a_store_that_fails_is_asked_once_for_all(service, monkeypatch):
    asked = []

    def refuse(queries, **options):
        asked.append(queries)
        raise PermissionError("s3://bucket/hush")

    monkeypatch.setattr(service.searcher, "search", refuse)
    same = [requests()[0].model_copy(update={"query": word}) for word in "abc"]
    found = [answer.found for answer in answer_batch(service.searcher, same)]
    assert [(each.status, each.code, "hush" in str(each)) for each in found if isinstance(each, ApiError)] == [
        (502, "store_failed", False)
    ] * 3
    assert asked == [["a", "b", "c"]]


def test_a_corpus_that_changed_is_no_fault_of_the_client(service, monkeypatch):
    def changed(queries, **options):
        raise ChangedError("s3://bucket/hush is gone")

    monkeypatch.setattr(service.searcher, "search", changed)
    (answer,) = answer_batch(service.searcher, requests()[:1])
    assert isinstance(answer.found, ApiError)
    assert (answer.found.status, "hush" in str(answer.found)) == (500, False)


def test_an_accident_of_one_query_is_its_own(service, monkeypatch):
    search = service.searcher.search

    def fails_for_b(queries, **options):
        if "b" in queries:
            raise RuntimeError("out of luck")
        return search(queries, **options)

    monkeypatch.setattr(service.searcher, "search", fails_for_b)
    same = [requests()[0].model_copy(update={"query": word}) for word in "abc"]
    found = [answer.found for answer in answer_batch(service.searcher, same)]
    assert [isinstance(each, ApiError) for each in found] == [False, True, False]
    assert [(each.status, "luck" in str(each)) for each in found if isinstance(each, ApiError)] == [(500, False)]
