"""Bodies of ``POST /search``, held to limits before anything is done for them."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr

from jobs.serving.errors import ApiError, of_message
from jobs.serving.limits import ServeLimits
from pipelines.filters import Condition

_Value = StrictBool | StrictInt | Annotated[StrictFloat, Field(allow_inf_nan=False)] | StrictStr


class Where(BaseModel):
    """A condition on a column; rows without a value there meet none."""

    model_config = ConfigDict(extra="forbid")

    column: str
    op: str = Field(description="==, !=, <, <=, >, >= or in")
    value: _Value | list[_Value] = Field(description="a list with the operator in, one value without")


class SearchBody(BaseModel):
    """Exactly one of ``query`` (words) and ``like`` (uid or video_id of a video)."""

    model_config = ConfigDict(extra="forbid")

    query: StrictStr | None = None
    like: StrictStr | None = None
    top: StrictInt = 10
    where: list[Where] = []
    rerank_top: StrictInt = 0


class SearchRequest(BaseModel):
    """A checked request. ``query`` is "" in a search for videos like another."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    query: str
    like: str
    top: int
    where: tuple[Condition, ...]
    rerank_top: int


def check(body: SearchBody, limits: ServeLimits) -> SearchRequest:
    """What a body asks for.

    Raises:
        ApiError: it is over a limit, or asks for nothing that can be answered.
    """
    query, like = (body.query or "").strip(), (body.like or "").strip()
    if bool(query) == bool(like):
        got = "both query and like" if query else "neither query nor like"
        raise _bad(got, "exactly one of them, not empty", 'send {"query": "what the video shows"}')
    if len(query) > limits.max_query_chars or len(like) > limits.max_query_chars:
        got = f"a query of {len(query or like)} characters"
        raise _bad(got, f"at most {limits.max_query_chars}", "shorten it: models read its first words only")
    if not _is_text(query + like):
        raise _bad("a query with halves of surrogate pairs", "Unicode text", "send valid Unicode")
    if not 1 <= body.top <= limits.max_top:
        raise _bad(f"top={body.top}", f"1 to {limits.max_top}", "ask for fewer videos")
    if body.rerank_top and not body.top <= body.rerank_top <= limits.max_rerank_top:
        wanted = f"0, or {body.top} (top) to {limits.max_rerank_top}"
        raise _bad(f"rerank_top={body.rerank_top}", wanted, "leave it out for one stage")
    if body.rerank_top and like:
        raise _bad(f"rerank_top={body.rerank_top} with like", "a query", "the second stage judges words alone")
    if len(body.where) > limits.max_conditions:
        raise _bad(f"{len(body.where)} conditions", f"at most {limits.max_conditions}", "use the operator in")
    where = tuple(_condition(where, limits) for where in body.where)
    return SearchRequest(query=query, like=like, top=body.top, where=where, rerank_top=body.rerank_top)


def _condition(where: Where, limits: ServeLimits) -> Condition:
    value: Any = where.value
    if isinstance(value, list):
        if not 1 <= len(value) <= limits.max_condition_values:
            raise _bad(f"{len(value)} values", f"1 to {limits.max_condition_values}", "ask in several requests")
        value = tuple(value)
    if any(isinstance(part, str) and not _is_text(part) for part in (where.column, value, *_values(value))):
        raise _bad("a condition with halves of surrogate pairs", "Unicode text", "send valid Unicode")
    try:
        return Condition(column=where.column, op=where.op, value=value)  # pyright: ignore[reportArgumentType]
    except ValueError as error:
        raise of_message(422, "bad_request", str(error)) from None


def _values(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else ()


def _is_text(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _bad(got: str, wanted: str, remedy: str) -> ApiError:
    return ApiError(422, "bad_request", got=got, wanted=wanted, remedy=remedy)
