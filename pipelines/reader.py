"""Read the videos of manifest rows by exact ranges, and make sure that they are what was indexed.

Of a set that was indexed without digests, the tar header tells whether a video may be another one, and nothing tells
that its bytes have changed.
"""

import contextlib
import errno
import hashlib
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from typing import Any, Literal, NamedTuple

from pipelines import storage
from pipelines.limits import VideoLimits
from pipelines.manifest import Manifest
from pipelines.quarantine import OK, SampleError

Row = dict[str, Any]
Video = bytes | SampleError
Verify = Literal["header", "sha256"]
Ranges = Callable[[int, int], bytes]
"""(start, length) -> bytes of one video; fewer where it ends before."""

_HEADER_BYTES = 512
_HEADER_NAME_BYTES = 100


class Range(NamedTuple):
    """Bytes [start, stop) of a shard and the wanted samples inside them, as positions in the request."""

    shard: str
    start: int
    stop: int
    positions: tuple[int, ...]


def read_videos(
    manifest: Manifest,
    samples: Sequence[Row],
    *,
    verify: Verify = "header",
    max_gap_bytes: int = 64 << 10,
    max_range_bytes: int = 8 << 20,
    window_bytes: int = 32 << 20,
    num_threads: int = 4,
    limits: VideoLimits = VideoLimits(),
) -> Iterator[Video]:
    """The bytes of the video of every sample, which are rows of ``manifest``, in their order, or why there are none.

    Local files are read one video at a time. From a store, the samples of a window of ``window_bytes`` (at least one)
    are read at once while those of the window before are used; videos that lie near each other in a shard share a
    request of at most ``max_range_bytes`` (more only for one single video). A video over ``limits`` is not read at all.

    ``verify`` = "header" asks that the tar header before the video still tells its name and its size, which it hardly
    does in a shard that was written anew; only otherwise the sha256 decides. "sha256" always takes the digest. It also
    finds bytes that have changed in place, and costs several times what reading from the page cache does.

    Raises, while iterating:
        OSError: the store refuses or does not answer, or the whole set is away. That says nothing about a sample, so it
            rejects none.
    """
    if storage.local_path(manifest.root) is not None:
        yield from _read_files(manifest, samples, verify=verify, limits=limits)
        return
    with ThreadPoolExecutor(num_threads) as pool:
        before: Iterator[Video] = iter(())
        for window in _windows(samples, window_bytes):
            wanted = [position for position in window if _refusal(samples[position], limits) is None]
            ranges = merge_ranges(samples, wanted, max_gap_bytes=max_gap_bytes, max_range_bytes=max_range_bytes)
            requests = {item: pool.submit(_fetch, manifest, item) for item in ranges}
            yield from before
            before = _cut_all(samples, window, requests, verify=verify, limits=limits)
        yield from before


def open_video(manifest: Manifest, sample: Row, *, limits: VideoLimits = VideoLimits()) -> Ranges:
    """``read(start, length)`` for ranges of one video of ``manifest``, of which nothing else is read.

    The tar header before it must still tell its name and its size; no digest is taken.

    Raises, here and while reading:
        SampleError: a code of the ``read`` stage, or why the sample was rejected when it was indexed.
        OSError: as ``read_videos``.
    """
    if refusal := _refusal(sample, limits):
        raise refusal
    url, offset, size = manifest.shard_url(sample["shard"]), sample["video_offset"], sample["video_bytes"]

    def read(start: int, length: int) -> bytes:
        wanted = max(0, min(length, size - start))
        try:
            data = storage.read_bytes(url, start=offset + start, length=wanted)
        except FileNotFoundError:
            raise _missing(manifest, sample["shard"]) from None
        if len(data) != wanted:
            raise SampleError("short_read", f"{sample['shard']}: got {len(data)} of {wanted} bytes at {offset + start}")
        return data

    try:
        header = storage.read_bytes(url, start=offset - _HEADER_BYTES, length=_HEADER_BYTES)
    except FileNotFoundError:
        raise _missing(manifest, sample["shard"]) from None
    if not _may_announce(header, sample):
        raise SampleError("changed_bytes", f"{sample['shard']}: another header, or none, before {offset}")
    return read


def merge_ranges(
    samples: Sequence[Row], positions: Sequence[int], *, max_gap_bytes: int, max_range_bytes: int
) -> list[Range]:
    """Cover the videos at ``positions``, with their headers, by few ranges, in the order of shards and offsets."""
    ranges: list[Range] = []
    for position in sorted(positions, key=lambda i: (samples[i]["shard"], samples[i]["video_offset"])):
        sample = samples[position]
        shard, start = sample["shard"], max(0, sample["video_offset"] - _HEADER_BYTES)
        stop = sample["video_offset"] + sample["video_bytes"]
        if ranges and ranges[-1].shard == shard:
            last = ranges[-1]
            merged = last._replace(stop=max(stop, last.stop), positions=(*last.positions, position))
            if start - last.stop <= max_gap_bytes and merged.stop - merged.start <= max_range_bytes:
                ranges[-1] = merged
                continue
        ranges.append(Range(shard, start, stop, (position,)))
    return ranges


def _read_files(manifest: Manifest, samples: Sequence[Row], *, verify: Verify, limits: VideoLimits) -> Iterator[Video]:
    for shard, group in groupby(samples, key=lambda sample: sample["shard"]):
        with contextlib.ExitStack() as stack:
            try:
                read = stack.enter_context(storage.reading(manifest.shard_url(shard)))
            except FileNotFoundError:
                read = None
            for sample in group:
                if (refusal := _refusal(sample, limits)) or read is None:
                    yield refusal or _missing(manifest, shard)
                    continue
                offset = sample["video_offset"]
                header = read(offset - _HEADER_BYTES, _HEADER_BYTES) if _wants_header(sample, verify) else b""
                yield _verified(sample, read(offset, sample["video_bytes"]), header)


def _windows(samples: Sequence[Row], window_bytes: int) -> Iterator[range]:
    """Positions of consecutive samples whose videos hold at most ``window_bytes``, at least one each."""
    start, held = 0, 0
    for position, sample in enumerate(samples):
        if position > start and held + sample["video_bytes"] > window_bytes:
            yield range(start, position)
            start, held = position, 0
        held += sample["video_bytes"]
    if start < len(samples):
        yield range(start, len(samples))


def _fetch(manifest: Manifest, item: Range) -> Video:
    try:
        return storage.read_bytes(manifest.shard_url(item.shard), start=item.start, length=item.stop - item.start)
    except FileNotFoundError:
        return _missing(manifest, item.shard)


def _missing(manifest: Manifest, shard: str) -> SampleError:
    """What becomes of the samples of a shard that is gone.

    Raises:
        FileNotFoundError: the manifest beside it is gone too. A folder or bucket that is away is no fault of a sample.
    """
    if not storage.exists(manifest.url):
        told = "neither the shard nor the manifest beside it is there; see whether the folder or bucket is away"
        raise FileNotFoundError(errno.ENOENT, told, manifest.shard_url(shard))
    return SampleError("missing_shard", shard)


def _cut_all(
    samples: Sequence[Row],
    window: range,
    requests: "dict[Range, Future[Video]]",
    *,
    verify: Verify,
    limits: VideoLimits,
) -> Iterator[Video]:
    """The videos of a window, cut from the answers when their turn comes."""
    range_of = {position: item for item in requests for position in item.positions}
    for position in window:
        sample = samples[position]
        if refusal := _refusal(sample, limits):
            yield refusal
            continue
        item = range_of[position]
        data = requests[item].result()
        if isinstance(data, SampleError):
            yield data
            continue
        start = sample["video_offset"] - item.start
        header = data[start - _HEADER_BYTES : start] if _wants_header(sample, verify) else b""
        yield _verified(sample, data[start : start + sample["video_bytes"]], header)


def _refusal(sample: Row, limits: VideoLimits) -> SampleError | None:
    """Why a video is not even read, if it isn't."""
    if sample["status"] != OK:
        return SampleError(sample["status"], sample["reason"])
    if sample["video_bytes"] > limits.max_bytes:
        return SampleError("too_large", f"{sample['video_bytes']} bytes, limit {limits.max_bytes}")
    return None


def _wants_header(sample: Row, verify: Verify) -> bool:
    return verify == "header" or not sample["sha256"]


def _verified(sample: Row, video: bytes, header: bytes) -> Video:
    """The video, unless it is not the one that was indexed. Without a header that proves it, the digest must."""
    shard, size = sample["shard"], sample["video_bytes"]
    if len(video) != size:
        return SampleError("short_read", f"{shard}: got {len(video)} of {size} bytes at {sample['video_offset']}")
    if header and _announces(header, sample):
        return video
    if not sample["sha256"]:
        other = SampleError("changed_bytes", f"{shard}: another header, or none, before {sample['video_offset']}")
        return video if _may_announce(header, sample) else other
    digest = hashlib.sha256(video).hexdigest()
    if digest != sample["sha256"]:
        return SampleError("changed_bytes", f"{shard}: sha256 {digest[:16]}…, indexed {sample['sha256'][:16]}…")
    return video


def _announces(header: bytes, sample: Row) -> bool:
    """Whether a tar header is that of the sample's video. A long name stands elsewhere, so that it is not found."""
    return _announced(header) == (f"{sample['key']}.{sample['video_suffix']}", sample["video_bytes"])


def _may_announce(header: bytes, sample: Row) -> bool:
    """The same where nothing else can decide: names that a header cannot hold as they are pass by their size."""
    name, size = _announced(header)
    wanted = f"{sample['key']}.{sample['video_suffix']}"
    is_storable = wanted.isascii() and len(wanted) < _HEADER_NAME_BYTES
    return size == sample["video_bytes"] and (name.lower() == wanted.lower() or not is_storable)


def _announced(header: bytes) -> tuple[str, int]:
    """Name and size that a tar header tells; ("", -1) if it is none."""
    try:
        member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return "", -1
    return member.name, member.size
