"""What an object store and the network before it can do to an answer."""

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass

from tests.http_messages import Answer, Request, ask


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One request, the server that could answer it, and the connection to the client."""

    request: Request
    upstream: tuple[str, int]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def true_answer(self, **changed: str | None) -> Answer:
        """What the server says, to the request with ``changed`` headers."""
        return await ask(self.request, self.upstream, **changed)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def reset(self) -> None:
        """End the connection as a host does that knows nothing of it."""
        self.writer.transport.set_write_buffer_limits(high=0)
        await self.writer.drain()
        connection = self.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def until_client_leaves(self) -> None:
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(1 << 16):
                pass
        self.writer.close()


class Fault:
    """The true answer, unchanged."""

    async def answer(self, exchange: Exchange) -> None:
        answer = await exchange.true_answer()
        await exchange.send(answer.head() + answer.body)


@dataclass(frozen=True)
class Status(Fault):
    """The server's own error answer, without the server."""

    number: int
    code: str = "InternalError"

    async def answer(self, exchange: Exchange) -> None:
        text = f"<Error><Code>{self.code}</Code><Message>made by the test</Message></Error>"
        body = b'<?xml version="1.0" encoding="UTF-8"?>' + text.encode()
        headers = {"content-type": "application/xml", "content-length": str(len(body))}
        answer = Answer(status=f"{self.number} {self.code}", headers=headers, body=body)
        await exchange.send(answer.head() + (b"" if exchange.request.method == "HEAD" else body))


@dataclass(frozen=True)
class Silence(Fault):
    """Takes the request and never answers."""

    async def answer(self, exchange: Exchange) -> None:
        await exchange.until_client_leaves()


@dataclass(frozen=True)
class Reset(Fault):
    """A true answer whose connection is reset after so many bytes of its body; -1: before its head."""

    after: int = -1

    async def answer(self, exchange: Exchange) -> None:
        answer = await exchange.true_answer()
        if self.after >= 0:
            await exchange.send(answer.head() + answer.body[: self.after])
        await exchange.reset()


@dataclass(frozen=True)
class Cut(Fault):
    """A true head, and a connection that is closed in good order after so many bytes of the body."""

    after: int

    async def answer(self, exchange: Exchange) -> None:
        answer = await exchange.true_answer()
        await exchange.send(answer.head() + answer.body[: self.after])
        exchange.writer.close()


@dataclass(frozen=True)
class Resized(Fault):
    """A body that is ``by`` bytes longer, or shorter, and a length that agrees with it: in itself a sound answer."""

    by: int

    async def answer(self, exchange: Exchange) -> None:
        answer = await exchange.true_answer()
        body = answer.body + bytes(self.by) if self.by > 0 else answer.body[: self.by]
        await exchange.send(answer.head(content_length=str(len(body))) + body)


@dataclass(frozen=True)
class Announced(Fault):
    """A true body under a length that is ``by`` bytes off; the connection stays open."""

    by: int

    async def answer(self, exchange: Exchange) -> None:
        answer = await exchange.true_answer()
        await exchange.send(answer.head(content_length=str(len(answer.body) + self.by)) + answer.body)


@dataclass(frozen=True)
class Whole(Fault):
    """The whole object with status 200, though a range was asked for. (The server must not check signatures.)"""

    async def answer(self, exchange: Exchange) -> None:
        answer = await exchange.true_answer(range=None)
        await exchange.send(answer.head() + answer.body)


@dataclass(frozen=True)
class Shifted(Fault):
    """The answer to a range that lies ``by`` bytes further on. (The server must not check signatures.)"""

    by: int

    async def answer(self, exchange: Exchange) -> None:
        asked = exchange.request.headers["range"]
        first, last = asked.removeprefix("bytes=").split("-")
        answer = await exchange.true_answer(range=f"bytes={int(first) + self.by}-{int(last) + self.by}")
        await exchange.send(answer.head() + answer.body)


@dataclass(frozen=True)
class Drip(Fault):
    """The true answer, one byte of the body after the other."""

    pause_s: float = 0.1

    async def answer(self, exchange: Exchange) -> None:
        answer = await exchange.true_answer()
        await exchange.send(answer.head())
        for place in range(len(answer.body)):
            await exchange.send(answer.body[place : place + 1])
            await asyncio.sleep(self.pause_s)
