"""Just enough HTTP/1.1 for a proxy in tests: one request or answer at a time, bodies in memory."""

import asyncio
from dataclasses import dataclass
from typing import Any

_MAX_HEAD_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Request:
    """``headers`` by lower-case name."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    def head(self, **changed: str | None) -> bytes:
        """Request line and headers; ``changed`` headers are set, or left out if None."""
        return _head(f"{self.method} {self.target} HTTP/1.1", _merged(self.headers, changed))


@dataclass(frozen=True, kw_only=True)
class Answer:
    """``headers`` by lower-case name. The body of an answer to HEAD is empty, whatever its headers say."""

    status: str
    headers: dict[str, str]
    body: bytes

    def head(self, **changed: str | None) -> bytes:
        return _head(f"HTTP/1.1 {self.status}", _merged(self.headers, changed))


async def read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
    """The next request of a connection, with its whole body; None at the end."""
    try:
        first, headers = await _read_head(reader)
    except asyncio.IncompleteReadError:
        return None
    method, target, _ = first.split(" ")
    if headers.pop("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = await _read_body(reader, headers, has_end=False)
    return Request(method=method, target=target, headers=headers, body=body)


async def ask(request: Request, upstream: tuple[str, int], **changed: str | None) -> Answer:
    """Pass a request on over a connection of its own; the whole answer."""
    reader, writer = await asyncio.open_connection(*upstream, limit=1 << 20)
    try:
        # A body that came in chunks has its length now.
        length = str(len(request.body)) if request.body or "content-length" in request.headers else None
        fixed = {"connection": "close", "transfer_encoding": None, "content_length": length}
        writer.write(request.head(**fixed | changed) + request.body)
        await writer.drain()
        first, headers = await _read_head(reader)
        while first.split(" ")[1] == "100":
            first, headers = await _read_head(reader)
        body = b"" if request.method == "HEAD" else await _read_body(reader, headers, has_end=True)
    finally:
        writer.close()
    headers.pop("connection", None)
    if request.method != "HEAD":
        headers["content-length"] = str(len(body))
    return Answer(status=first.partition(" ")[2], headers=headers, body=body)


async def _read_head(reader: asyncio.StreamReader) -> tuple[str, dict[str, str]]:
    text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    assert len(text) < _MAX_HEAD_BYTES, text[:200]
    first, *lines = text.strip("\r\n").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return first, {name.lower(): value.strip() for name, _, value in pairs}


async def _read_body(reader: asyncio.StreamReader, headers: dict[str, str], *, has_end: bool) -> bytes:
    """``has_end``: without a length the body goes on until the connection ends."""
    if headers.pop("transfer-encoding", "").lower() == "chunked":
        body = b""
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readuntil(b"\r\n")
        return body
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    return await reader.read() if has_end else b""


def _merged(headers: dict[str, str], changed: dict[str, Any]) -> dict[str, str]:
    merged = headers | {name.replace("_", "-"): value for name, value in changed.items()}
    return {name: value for name, value in merged.items() if value is not None}


def _head(first: str, headers: dict[str, str]) -> bytes:
    lines = [first, *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
