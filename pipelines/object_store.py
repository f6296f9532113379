"""S3 with requests that are bounded in time, tried again while that may help, and proved to be what was asked for.

s3fs and botocore have time-outs and retries of their own, which multiply: here they are off, and ``BOUNDS`` is all
there is. A range is taken for true only if Content-Range says so, and for the end of the object only if it says that.
"""

import asyncio
import hashlib
import logging
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import tenacity
from fsspec.asyn import sync
from s3fs import S3FileSystem

from pipelines.store_errors import (
    REQUEST_ERRORS,
    UnsoundAnswerError,
    UploadLostError,
    answer_of,
    detail_of,
    is_transient,
    told,
)

_log = logging.getLogger(__name__)
_PIECE_BYTES = 32 << 20
_CONNECTIONS = 64
_OUT_OF_RANGE = 416
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How long a store may take. There is a second try; no other begins once one has failed after ``patience_s``."""

    connect_s: float = 5
    """For a connection to be made."""
    silence_s: float = 20
    """Between two bytes of an answer."""
    window_s: float = 30
    """For the head of an answer, and for each ``window_bytes`` sent or received: slower is as good as dead."""
    window_bytes: int = 1 << 20
    patience_s: float = 90
    """Swift keeps a server that failed out for a minute, and stores that are overloaded take about as long."""
    max_tries: int = 30
    pause_s: float = 0.5
    """Before the second try at most; it doubles with each try, up to ``max_pause_s``."""
    max_pause_s: float = 10

    def config(self) -> dict[str, Any]:
        """What botocore must know."""
        once = {"mode": "standard", "total_max_attempts": 1}
        limits = {"connect_timeout": self.connect_s, "read_timeout": self.silence_s}
        return limits | {"retries": once, "max_pool_connections": _CONNECTIONS}

    def limit_s(self, num_bytes: int) -> float:
        """For a request that sends so many bytes, up to the head of its answer."""
        return self.window_s * (1 + num_bytes / self.window_bytes)


BOUNDS = Bounds()


class Piece(NamedTuple):
    """A range of an object, the size of the whole, and a mark that changes when its content does."""

    data: bytes
    total: int
    mark: str


class ObjectStore(S3FileSystem):
    """s3fs, every request of which passes through ``_call_s3`` and ``read_piece``.

    Both raise, with the object's URL and without credentials:
        FileNotFoundError: no such object or bucket.
        PermissionError: the store refuses; this is not tried again.
        ConnectionError: no sound answer within ``BOUNDS``.
        OSError: another refusal.
    """

    retries = 1

    async def _call_s3(self, method: str, *positional: Any, **options: Any) -> Any:
        request = super()._call_s3
        body = options.get("Body")

        async def once() -> Any:
            async with asyncio.timeout(BOUNDS.limit_s(len(body) if isinstance(body, bytes) else 0)):
                return await request(method, *positional, **options)

        key = options.get("Key") or options.get("Prefix") or ""
        try:
            return await _patiently(once, f"s3://{options.get('Bucket', '')}/{key}")
        except UploadLostError:
            # The upload also is unknown once it was completed, by a try whose answer came too late.
            if method != "complete_multipart_upload" or not await self._is_there(**options):
                raise
            return {}

    async def _is_there(self, *, Bucket: str, Key: str, MultipartUpload: dict[str, Any], **_: Any) -> bool:
        """Whether an object was put together from just these parts."""
        try:
            digests = [bytes.fromhex(part["ETag"].strip('"')) for part in MultipartUpload["Parts"]]
            found = await self._info(f"{Bucket}/{Key}")
        except (FileNotFoundError, ValueError):
            return False
        whole = hashlib.md5(b"".join(digests), usedforsecurity=False).hexdigest()
        return found.get("ETag", "").strip('"') == f"{whole}-{len(digests)}"

    async def _read_piece(self, path: str, start: int, stop: int, *, mark: str = "") -> Piece:
        """Bytes [start, stop) of an object, fewer (or none) only where it ends before. ``mark``: of this content."""
        request = super()._call_s3
        bucket, key, _ = self.split_path(path)
        options = {"Bucket": bucket, "Key": key, "Range": f"bytes={start}-{stop - 1}"}
        options |= {"IfMatch": mark} if mark else {}

        async def once() -> Piece | None:
            """None: the store says that there is nothing at ``start``."""
            try:
                async with asyncio.timeout(BOUNDS.window_s):
                    answer = await request("get_object", **options)
            except OSError as error:
                if answer_of(error)[0] == _OUT_OF_RANGE:
                    return None
                raise
            async with answer["Body"] as body:
                if not answer.get("ContentRange") and answer.get("ContentLength") == 0:
                    return None
                length, total = _extent(answer, start, stop)
                return Piece(await _read_all(body, length), total, answer.get("ETag", ""))

        url = f"s3://{bucket}/{key}"
        if (piece := await _patiently(once, url)) is not None:
            return piece
        total = (await self._info(path))["size"]
        if start < total:
            raise UnsoundAnswerError(
                f"got no bytes at {start} of {url}, which has {total}; start the same command again"
            )
        return Piece(b"", total, mark)

    def read_piece(self, path: str, start: int, stop: int, *, mark: str = "") -> Piece:
        """``_read_piece``, for callers that cannot wait."""
        piece: Any = sync(self.loop, self._read_piece, path, start, stop, mark=mark)
        return piece

    def read_pieces(
        self, path: str, *, start: int = 0, stop: int | None = None, piece_bytes: int = _PIECE_BYTES
    ) -> Iterator[bytes]:
        """Bytes [start, stop), or to the end, piece by piece; all of one content."""
        mark = ""
        while stop is None or start < stop:
            end = start + piece_bytes if stop is None else min(stop, start + piece_bytes)
            piece = self.read_piece(path, start, end, mark=mark)
            if piece.data:
                yield piece.data
            if end >= piece.total:
                return
            start, mark = end, piece.mark

    def found_below(self, root: str) -> Iterator[dict[str, Any]]:
        """``info`` of each object whose path begins with ``root``, page by page."""
        bucket, prefix, _ = self.split_path(root)
        wanted, after = {"Bucket": bucket, "Prefix": prefix}, {}
        while after is not None:
            page: Any = sync(self.loop, self._call_s3, "list_objects_v2", **wanted, **after)
            for info in page.get("Contents", ()):
                yield {**info, "name": f"{bucket}/{info['Key']}", "size": info["Size"]}
            after = {"ContinuationToken": page["NextContinuationToken"]} if page.get("IsTruncated") else None

    async def _put_file(self, lpath: str, rpath: str, *positional: Any, **options: Any) -> None:
        try:
            await super()._put_file(lpath, rpath, *positional, **options)
        except UploadLostError:
            await super()._put_file(lpath, rpath, *positional, **options)

    async def _pipe_file(self, path: str, data: bytes, *positional: Any, **options: Any) -> None:
        try:
            await super()._pipe_file(path, data, *positional, **options)
        except UploadLostError:
            await super()._pipe_file(path, data, *positional, **options)


def connect() -> ObjectStore:
    """The store that the environment names; one client a process."""
    # A cached listing would hide what other workers have written since.
    return ObjectStore(use_listings_cache=False, config_kwargs=BOUNDS.config())


def _extent(answer: dict[str, Any], start: int, stop: int) -> tuple[int, int]:
    """(bytes of the answer, bytes of the object) of an answer to the range [start, stop), by its head.

    Raises:
        UnsoundAnswerError: it is that of another range.
    """
    told, length = answer.get("ContentRange", ""), answer.get("ContentLength")
    found = _CONTENT_RANGE.fullmatch(told)
    if not found:
        # Also where that is what was asked for: nothing proves that such an answer is whole.
        raise UnsoundAnswerError(f"got an answer without a range for bytes {start} to {stop}")
    first, last, total = map(int, found.groups())
    if first != start or last != min(stop, total) - 1 or length not in (None, last + 1 - first):
        raise UnsoundAnswerError(f"got {length} bytes under {told!r} for bytes {start} to {stop}")
    return last + 1 - first, total


async def _read_all(body: Any, length: int) -> bytes:
    """The body of an answer, which must have ``length`` bytes."""
    data = bytearray()
    is_over = False
    while not is_over:
        mark = len(data) + BOUNDS.window_bytes
        async with asyncio.timeout(BOUNDS.window_s):
            while not is_over and len(data) < mark:
                # One byte more than is left, to see the end.
                piece = await body.read(min(length + 1, mark) - len(data))
                data += piece
                is_over = not piece or len(data) > length
    if len(data) != length:
        raise UnsoundAnswerError(f"got {len(data)} of {length} bytes")
    return bytes(data)


async def _patiently(once: Callable[[], Awaitable[ResultT]], url: str) -> ResultT:
    """Call ``once`` until it answers soundly, within ``BOUNDS``."""
    bounds = BOUNDS
    retrying = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(is_transient),
        stop=tenacity.stop_after_attempt(bounds.max_tries)
        | (tenacity.stop_after_attempt(2) & tenacity.stop_after_delay(bounds.patience_s)),
        wait=tenacity.wait_random_exponential(multiplier=bounds.pause_s, max=bounds.max_pause_s),
        before_sleep=lambda state: _tell(url, state),
        reraise=True,
    )
    try:
        return await retrying(once)
    except REQUEST_ERRORS as error:
        # The chain of causes may quote signed requests.
        statistics = retrying.statistics
        tries, seconds = statistics["attempt_number"], statistics["delay_since_first_attempt"]
        raise told(error, url, tries=tries, seconds=seconds) from None


def _tell(url: str, state: tenacity.RetryCallState) -> None:
    """A word to whoever waits; one failed try is nothing unusual."""
    if state.attempt_number > 1 and state.outcome and (error := state.outcome.exception()):
        _log.warning("%s: try %d failed (%s), trying again", url, state.attempt_number, detail_of(error))
