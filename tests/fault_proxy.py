"""A TCP proxy on loopback that stands before a test's S3 server and spoils chosen answers.

Requests pass on with their own Host header, which their signature covers; the server does not mind that it names
another port. Which attempt of a request this is (0, 1, …) is counted for each combination of rule, method, target and
range; a rule that does not apply to this attempt leaves it to the next.
"""

import asyncio
import contextlib
import fnmatch
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from tests.faults import Exchange, Fault
from tests.http_messages import Request, read_request

ALWAYS = range(1 << 30)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Spoil the answers to ``method`` for keys that match the pattern ``key``, at these attempts.

    ``query`` must be part of the query string: ``partNumber=2``, ``uploads``, ``list-type``; a listing has the key "".
    """

    key: str
    fault: Fault
    attempts: range = ALWAYS
    method: str = "GET"
    query: str = ""


class Seen(NamedTuple):
    """A request as it came. ``fault`` is the name of what it met, "" for a true answer."""

    method: str
    key: str
    query: str
    range: str
    attempt: int
    fault: str


@dataclass
class FaultProxy:
    """``rules`` may be exchanged at any time. ``log`` grows with every request."""

    url: str
    upstream: tuple[str, int]
    rules: Sequence[Rule] = ()
    log: list[Seen] = field(default_factory=list)
    _counts: Counter = field(default_factory=Counter)

    def tries(self, key: str, *, method: str = "GET") -> list[int]:
        """How often each different request for keys that match was made, in the order of their first appearance."""
        fits = [seen for seen in self.log if seen.method == method and fnmatch.fnmatchcase(seen.key, key)]
        return list(Counter((seen.query, seen.range, seen.key) for seen in fits).values())

    def met(self, fault: type[Fault]) -> int:
        """How many requests met a fault of this kind."""
        return sum(seen.fault == fault.__name__ for seen in self.log)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while request := await read_request(reader, writer):
                fault = self._judge(request)
                exchange = Exchange(request=request, upstream=self.upstream, reader=reader, writer=writer)
                await (fault or Fault()).answer(exchange)
                if writer.is_closing():
                    break
        writer.close()

    def forget(self) -> None:
        """Answer truly from now on, and begin to count and log anew."""
        self.rules = ()
        self._counts.clear()
        self.log.clear()

    def _judge(self, request: Request) -> Fault | None:
        parts = urlsplit(request.target)
        key = unquote(parts.path).lstrip("/").partition("/")[2]
        wanted = request.headers.get("range", "")
        # Every upload has an id of its own.
        target = (request.method, parts.path, parts.query.partition("uploadId=")[0], wanted)
        attempt, fault = 0, None
        for number, rule in enumerate(self.rules):
            is_meant = request.method == rule.method and rule.query in parts.query
            if is_meant and fnmatch.fnmatchcase(key, rule.key):
                attempt = self._counts[number, *target]
                self._counts[number, *target] += 1
                if attempt in rule.attempts:
                    fault = rule.fault
                    break
        name = type(fault).__name__ if fault else ""
        self.log.append(Seen(request.method, key, parts.query, wanted, attempt, name))
        return fault


@contextlib.contextmanager
def fault_proxy(endpoint_url: str) -> Iterator[FaultProxy]:
    """A proxy before the server at ``endpoint_url``, on a thread of its own until the block ends."""
    host, port = urlsplit(endpoint_url).hostname, urlsplit(endpoint_url).port
    assert host, endpoint_url
    assert port, endpoint_url
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    proxy = FaultProxy(url="", upstream=(host, port))
    start = asyncio.start_server(proxy._serve, "127.0.0.1", 0, limit=1 << 20)
    server = asyncio.run_coroutine_threadsafe(start, loop).result(timeout=10)
    proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(_end(server), loop).result(timeout=10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=10)
        loop.close()


async def _end(server: asyncio.Server) -> None:
    server.close()
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def through(env: dict[str, str], proxy: FaultProxy) -> dict[str, str]:
    """The environment ``env`` of a server, leading through the proxy."""
    return env | {"AWS_ENDPOINT_URL": proxy.url}
