"""Around every request: figures, a limit on bodies, headers that keep a browser from more than the page needs."""

import logging
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jobs.serving.errors import ApiError, error_response
from jobs.serving.metrics import Metrics

log = logging.getLogger(__name__)

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
FOREIGN_POLICY = "default-src 'none'; style-src 'unsafe-inline'; media-src 'self'; img-src 'self'; sandbox"
"""For what comes from strangers: as a page of its own it may show itself and nothing else."""
SECURITY = {
    "Content-Security-Policy": PAGE_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}


class SecurityHeaders:
    """Adds ``SECURITY`` where an answer does not bring its own."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_safely)


class NoTraces:
    """What nobody foresaw goes to the log; the client is told that it happened."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics):
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_begun = False

        async def send_noting(message: Message) -> None:
            nonlocal is_begun
            is_begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_noting)
        except Exception:
            log.exception("a request failed")
            self._metrics.errors.labels("failed").inc()
            if is_begun:
                raise
            got, wanted = "an error inside the service", "an answer"
            await error_response(ApiError(500, "failed", got=got, wanted=wanted, remedy="see the service's log"))(
                scope, receive, send
            )


class BodyLimit:
    """Refuses bodies over ``max_bytes``, those that announce their size before they are read."""

    def __init__(self, app: ASGIApp, *, max_bytes: int):
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "0")
        if not announced.isdecimal() or int(announced) > self._max_bytes:
            await error_response(self._too_large(announced))(scope, receive, send)
            return
        body = await self._read(receive)
        if body is None:
            await error_response(self._too_large("more"))(scope, receive, send)
            return
        is_read = False

        async def receive_again() -> Message:
            nonlocal is_read
            if is_read:
                return await receive()
            is_read = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, receive_again, send)

    async def _read(self, receive: Receive) -> bytes | None:
        """The whole body, None if it is too large."""
        body = b""
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return body
            body += message.get("body", b"")
            if len(body) > self._max_bytes:
                return None
            if not message.get("more_body"):
                return body

    def _too_large(self, got: str) -> ApiError:
        wanted = f"at most {self._max_bytes}"
        return ApiError(413, "too_large", got=f"a body of {got} bytes", wanted=wanted, remedy="shorten the request")


class Measured:
    """Counts and times requests by route; what no route takes is called "other": strangers make up no labels."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics):
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, start = 499, time.perf_counter()  # the client went away before it was told anything

        async def send_noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with self._metrics.in_flight.track_inprogress():
            try:
                await self._app(scope, receive, send_noting)
            except Exception:
                status = 500
                raise
            finally:
                route = getattr(scope.get("route"), "path", "other")
                self._metrics.requests.labels(route, str(status)).inc()
                self._metrics.seconds.labels(route).observe(time.perf_counter() - start)
