"""Videos by ranges, stills, and the patches that a model kept. A uid that is none of the manifest's is a 404."""

import hashlib
import io
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse

from fpig_core.drawing import draw_contact_sheet
from jobs.draw_tokens import draw_video
from jobs.serving.cache import ByteCache
from jobs.serving.errors import ApiError, store_failed
from jobs.serving.guards import FOREIGN_POLICY
from jobs.serving.ranges import Span, UnsatisfiableError, parse_range
from jobs.serving.service import Service
from jobs.serving.workers import Workers
from pipelines.media import media_type
from pipelines.quarantine import SampleError

NUM_READERS = 8
PASSING = ("too_slow", "decoder_crashed")
"""Rejections of a decoder that another try may not meet."""
_FOREIGN = {"Content-Security-Policy": FOREIGN_POLICY, "Cache-Control": "private, max-age=600"}


def add_media(app: FastAPI, service: Service) -> None:
    """Add the routes for videos, stills and pictures of kept patches."""
    limits = service.limits
    pending = {"max_pending": limits.max_media_waiting, "timeout_s": limits.media_timeout_s}
    readers = Workers("reads of videos", num_threads=NUM_READERS, **pending)
    painters = Workers("pictures", num_threads=limits.max_media, **pending)
    cache: ByteCache[bytes | ApiError] = ByteCache(limits.cache_bytes)

    async def sample_of(uid: str) -> dict[str, Any]:
        sample = await readers.run(_guarded_read, service.rows.find, uid)
        if sample is None:
            raise ApiError(404, "no_video", got=f"uid {uid!r}", wanted="the uid of a video found by POST /search")
        return sample

    async def picture(request: Request, uid: str, kind: str, paint: Callable[[dict[str, Any]], bytes]) -> Response:
        sample = await sample_of(uid)
        headers = _FOREIGN | {"ETag": _etag(sample)}
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        made = cache.get((kind, uid))
        if made is None:
            made = await painters.run(_painted, paint, sample)
            cache.put((kind, uid), made, num_bytes=len(made) if isinstance(made, bytes) else 0)
        if isinstance(made, ApiError):
            raise made
        return Response(made, media_type=kind, headers=headers)

    @app.get("/thumbnails/{uid}.jpg")
    async def thumbnail(request: Request, uid: str) -> Response:
        """The frame in the middle of the segment."""
        return await picture(request, uid, "image/jpeg", service.media.still)

    @app.get("/tokens/{uid}.png")
    async def tokens(request: Request, uid: str) -> Response:
        """The frames that the model saw, with the patches that it kept."""
        if service.model is None:
            got = f"a model of {service.about()['method']}"
            raise ApiError(404, "no_tokens", got=got, wanted="one of fpig: no other selects tokens")
        return await picture(request, uid, "image/png", lambda sample: _draw_tokens(service, sample))

    @app.head("/videos/{uid}", include_in_schema=False)
    @app.get("/videos/{uid}")
    async def video(request: Request, uid: str) -> Response:
        """The bytes of a video, or a range of them; a long range is answered in part."""
        sample = await sample_of(uid)
        size, kind = sample["video_bytes"], media_type(sample)
        if not kind:
            got = f"a sample of kind {sample['video_suffix']}"
            raise ApiError(415, "no_video", got=got, wanted="a video", remedy=f"see /thumbnails/{uid}.jpg")
        headers = _FOREIGN | {"Accept-Ranges": "bytes", "ETag": _etag(sample), "Content-Disposition": "inline"}
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        is_current = request.headers.get("if-range") in (None, headers["ETag"])
        try:
            asked = parse_range(request.headers.get("range") if is_current else None, num_bytes=size)
        except UnsatisfiableError:
            return Response(status_code=416, headers=headers | {"Content-Range": f"bytes */{size}"})
        span = asked or Span(0, size)
        if asked:
            span = Span(asked.start, min(asked.stop, asked.start + limits.max_range_bytes))
            headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{size}"
        elif size > limits.max_whole_bytes and request.method != "HEAD":
            wanted = f"a Range header: whole videos are sent up to {limits.max_whole_bytes}"
            raise ApiError(413, "too_large", got=f"a video of {size} bytes", wanted=wanted, remedy="ask for ranges")
        headers["Content-Length"] = str(span.stop - span.start)
        status = 206 if asked else 200
        if request.method == "HEAD":
            return Response(status_code=status, media_type=kind, headers=headers)
        read = await readers.run(_guarded_read, service.media.open, sample)
        first = await readers.run(_guarded_read, read, span.start, min(limits.piece_bytes, span.stop - span.start))

        async def pieces() -> AsyncIterator[bytes]:
            yield first
            for start in range(span.start + limits.piece_bytes, span.stop, limits.piece_bytes):
                yield await readers.run(read, start, min(limits.piece_bytes, span.stop - start))

        return StreamingResponse(pieces(), status_code=status, media_type=kind, headers=headers)


def _etag(sample: dict[str, Any]) -> str:
    """Another one for other bytes, as far as the manifest tells, or for another segment."""
    names = ("uid", "sha256", "video_offset", "video_bytes", "start_s", "end_s")
    return f'"{hashlib.sha256(repr([sample[name] for name in names]).encode()).hexdigest()[:24]}"'


def _painted(paint: Callable[[dict[str, Any]], bytes], sample: dict[str, Any]) -> bytes | ApiError:
    """The picture, or the error that is kept in its place: what cannot be decoded is not tried again and again.

    What may pass, such as a shard that is away or a decoder that ran out of time, is raised.
    """
    try:
        return paint(sample)
    except SampleError as error:
        if error.stage != "decode" or error.code in PASSING:
            raise _of_sample(error) from error
        return _of_sample(error)
    except OSError as error:
        raise store_failed("the bytes of the video", error) from error


def _guarded_read(function: Callable[..., Any], *args: Any) -> Any:
    try:
        return function(*args)
    except SampleError as error:
        raise _of_sample(error) from error
    except OSError as error:
        raise store_failed("the bytes of the video", error) from error


def _of_sample(error: SampleError) -> ApiError:
    status = 404 if error.stage in ("index", "read") else 415
    return ApiError(status, error.code, got=str(error), wanted="a video that can be shown")


def _draw_tokens(service: Service, sample: dict[str, Any]) -> bytes:
    assert service.model is not None
    data = service.media.whole(sample)
    heading = f"Patches kept by the token selector, model {service.searcher.model_id}"
    sink = io.BytesIO()
    picture = draw_video(service.model, sample, data, limits=service.media.limits)
    draw_contact_sheet([picture], heading=heading).save(sink, "PNG")
    return sink.getvalue()
