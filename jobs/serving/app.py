"""The web application over a ``Service``: search, health, figures and the page. It knows nothing of Ray."""

import dataclasses
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from jobs.serving.batching import Answer
from jobs.serving.errors import ApiError, error_response, of_validation
from jobs.serving.guards import BodyLimit, Measured, NoTraces, SecurityHeaders
from jobs.serving.media import add_media
from jobs.serving.metrics import CONTENT_TYPE_LATEST, Metrics
from jobs.serving.page import add_page
from jobs.serving.requests import SearchBody, SearchRequest, check
from jobs.serving.service import Service
from jobs.serving.workers import Workers
from pipelines.searcher import Found

log = logging.getLogger(__name__)

Search = Callable[[SearchRequest], Awaitable[Answer]]


def make_app(service: Service, *, search: Search | None = None, allowed_hosts: Sequence[str] = ("*",)) -> FastAPI:
    """The application. ``search`` answers one request, perhaps together with others; by default alone, in a thread.

    ``allowed_hosts``: names that requests may call it by; others get 400.
    """
    limits, metrics = service.limits, service.metrics
    metrics.videos.set(service.searcher.num_videos)
    search = search or search_alone(service)
    app = FastAPI(title="F-Pig search", docs_url=None, redoc_url=None, swagger_ui_oauth2_redirect_url=None)

    @app.post("/search")
    async def search_videos(body: SearchBody) -> JSONResponse:
        """The best videos for words, or those most like a video."""
        request = check(body, limits)
        start = time.perf_counter()
        answer = await search(request)
        if isinstance(answer.found, ApiError):
            raise answer.found
        return JSONResponse(
            _told(service, request, answer, seconds=time.perf_counter() - start), headers={"Cache-Control": "no-store"}
        )

    @app.get("/healthz")
    async def health() -> JSONResponse:
        """Answers once the model and the index are loaded."""
        return JSONResponse(service.about(), headers={"Cache-Control": "no-store"})

    @app.get("/metrics", include_in_schema=False)
    async def figures() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    add_page(app)
    add_media(app, service)
    _add_errors(app, metrics)
    # The last one added is the outermost.
    app.add_middleware(BodyLimit, max_bytes=limits.max_body_bytes)
    app.add_middleware(NoTraces, metrics=metrics)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=allowed_hosts, www_redirect=False)
    app.add_middleware(Measured, metrics=metrics)
    app.add_middleware(SecurityHeaders)
    return app


def search_alone(service: Service) -> Search:
    """Each request a search of its own."""
    limits = service.limits
    searches = Workers("searches", num_threads=1, max_pending=limits.max_waiting, timeout_s=limits.search_timeout_s)

    async def search(request: SearchRequest) -> Answer:
        return (await searches.run(service.answer, [request]))[0]

    return search


def _told(service: Service, request: SearchRequest, answer: Answer, *, seconds: float) -> dict[str, Any]:
    assert not isinstance(answer.found, ApiError)
    return {
        "model_id": service.searcher.model_id,
        "num_videos": service.searcher.num_videos,
        **({"like": request.like} if request.like else {"query": request.query}),
        "first_stage_k": request.rerank_top or None,
        "timing": {
            "total_ms": round(1000 * seconds, 3),
            "search_ms": round(1000 * answer.search_s, 3),
            "batch_size": answer.batch_size,
        },
        "results": [_told_of(found, draws_tokens=service.model is not None) for found in answer.found],
    }


def _told_of(found: Found, *, draws_tokens: bool) -> dict[str, Any]:
    told = dataclasses.asdict(found)
    told["score"] = found.score if math.isfinite(found.score) else None
    told["metadata"] = {name: _plain(value) for name, value in found.metadata.items()}
    return told | {
        "video": f"/videos/{found.uid}",
        "thumbnail": f"/thumbnails/{found.uid}.jpg",
        "tokens": f"/tokens/{found.uid}.png" if draws_tokens else None,
    }


def _plain(value: Any) -> Any:
    """What JSON can hold; dates as text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def _add_errors(app: FastAPI, metrics: Metrics) -> None:
    def tell(error: ApiError) -> JSONResponse:
        metrics.errors.labels(error.code).inc()
        return error_response(error)

    @app.exception_handler(ApiError)
    async def of_ours(_: Request, error: ApiError) -> JSONResponse:
        return tell(error)

    @app.exception_handler(RequestValidationError)
    async def of_body(_: Request, error: RequestValidationError) -> JSONResponse:
        return tell(of_validation(error))

    @app.exception_handler(HTTPException)
    async def of_route(request: Request, error: HTTPException) -> JSONResponse:
        got = f"{request.method} {request.url.path}"
        wanted = "a route of /openapi.json" if error.status_code in (404, 405) else str(error.detail)
        return tell(
            ApiError(
                error.status_code,
                "no_route" if error.status_code in (404, 405) else "bad_request",
                got=got,
                wanted=wanted,
                remedy="see /openapi.json",
            )
        )
