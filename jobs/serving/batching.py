"""Many requests as one search."""

import dataclasses
import logging
import time
from collections import defaultdict
from collections.abc import Sequence

from jobs.serving.errors import ApiError, of_message, store_failed
from jobs.serving.requests import SearchRequest
from pipelines.searcher import Found, Searcher

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of one request. ``search_s``: seconds of the whole batch of ``batch_size`` requests."""

    found: list[Found] | ApiError
    batch_size: int
    search_s: float


def answer_batch(searcher: Searcher, requests: Sequence[SearchRequest]) -> list[Answer]:
    """Answers in the order of requests. Queries under the same conditions are one search; a bad one fails alone."""
    start = time.perf_counter()
    groups: defaultdict[tuple, list[int]] = defaultdict(list)
    for number, request in enumerate(requests):
        groups[request.like, request.where, request.rerank_top].append(number)
    found: dict[int, list[Found] | ApiError] = {}
    for numbers in groups.values():
        found |= zip(numbers, _answer_group(searcher, [requests[number] for number in numbers]), strict=True)
    seconds = time.perf_counter() - start
    return [Answer(found=found[number], batch_size=len(requests), search_s=seconds) for number in range(len(requests))]


def _answer_group(searcher: Searcher, group: Sequence[SearchRequest]) -> list[list[Found] | ApiError]:
    """Answers of requests that differ in their words and in ``top`` alone."""
    try:
        return _search(searcher, group)
    except OSError as error:
        # It took minutes, and would again for each of them.
        return [store_failed("what is stored of the candidates", error)] * len(group)
    except Exception as error:
        if len(group) > 1:
            return [_answer_group(searcher, [request])[0] for request in group]
        # Libraries raise subclasses of it for reasons of their own.
        if type(error) is ValueError:
            return [of_message(422, "bad_request", str(error))]
        log.exception("a search failed")
        return [ApiError(500, "failed", got="an error inside the service", wanted="results", remedy="see its log")]


def _search(searcher: Searcher, group: Sequence[SearchRequest]) -> list[list[Found] | ApiError]:
    first, top = group[0], max(request.top for request in group)
    if first.like:
        each = [searcher.like(first.like, top=top, where=first.where)] * len(group)
    else:
        queries = [request.query for request in group]
        each = searcher.search(queries, top=top, where=first.where, rerank_top=first.rerank_top)
    return [found[: request.top] for found, request in zip(each, group, strict=True)]
