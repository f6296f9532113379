"""What a client is told when something cannot be done: got, wanted, remedy, as JSON; never where it happened."""

import logging
from collections.abc import Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

log = logging.getLogger(__name__)

MAX_SHOWN = 200


class ApiError(Exception):
    """An answer with an HTTP status of 400 or more. ``code`` is a word for programs, the others are for people."""

    def __init__(self, status: int, code: str, *, got: str, wanted: str, remedy: str = "", retry_after_s: int = 0):
        super().__init__(f"{code}: got {got}, wanted {wanted}")
        self.status, self.code, self.retry_after_s = status, code, retry_after_s
        self.got, self.wanted, self.remedy = _cut(got), wanted, remedy


def busy(what: str, waiting: int) -> ApiError:
    """Too many requests of one kind wait already."""
    return ApiError(
        503,
        "busy",
        got=f"{waiting} {what} that wait already",
        wanted="fewer at the same time",
        remedy="try again after the seconds that Retry-After tells",
        retry_after_s=1,
    )


def too_slow(what: str, seconds: float) -> ApiError:
    return ApiError(
        504,
        "too_slow",
        got=f"no {what} within {seconds:g} s",
        wanted="an answer in time",
        remedy="try again; if it stays so, the service is overloaded or its store is slow",
        retry_after_s=5,
    )


def store_failed(what: str, error: OSError) -> ApiError:
    """The store refuses or does not answer; the log says more."""
    log.warning("%s could not be read: %s", what, error)
    got, remedy = "a store that refuses or does not answer", "try again later"
    return ApiError(502, "store_failed", got=got, wanted=what, remedy=remedy, retry_after_s=10)


def of_message(status: int, code: str, message: str) -> ApiError:
    """A message of ours, "got …, wanted …; what to do", in its pieces."""
    got, _, rest = message.removeprefix("got ").partition(", wanted ")
    wanted, _, remedy = rest.partition("; ")
    if not wanted:
        # What was got may hold anything, a semicolon too.
        got, _, remedy = got.rpartition("; ") if "; " in got else (got, "", "")
    return ApiError(status, code, got=got, wanted=wanted, remedy=remedy)


def error_response(error: ApiError) -> JSONResponse:
    told = {"code": error.code, "got": error.got, "wanted": error.wanted, "remedy": error.remedy}
    headers = {"Cache-Control": "no-store"}
    if error.retry_after_s:
        headers["Retry-After"] = str(error.retry_after_s)
    return JSONResponse({"error": told}, status_code=error.status, headers=headers)


def of_validation(error: RequestValidationError) -> ApiError:
    """The first thing that is wrong with a body."""
    first: dict[str, Any] = error.errors()[0]
    if first["type"] == "json_invalid":
        got = "a body that is no JSON"
        return ApiError(422, "bad_request", got=got, wanted="a JSON object", remedy='send {"query": "…"}')
    where = _place(first["loc"])
    if where == "body":
        got, remedy = "a body that is no JSON object", 'send {"query": "…"} with Content-Type: application/json'
        return ApiError(422, "bad_request", got=got, wanted="a JSON object", remedy=remedy)
    told = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "missing":
        return ApiError(422, "bad_request", got=f"no {where}", wanted=told, remedy="see /openapi.json")
    got = f"{where} = {first.get('input')!r}"
    return ApiError(422, "bad_request", got=got, wanted=told, remedy="see /openapi.json")


def _place(parts: Sequence[str | int]) -> str:
    return ".".join(str(part) for part in parts if part != "body") or "body"


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
