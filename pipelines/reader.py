"""Read the videos of manifest rows by exact ranges, and prove that they are the bytes that were indexed."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pyarrow as pa

from pipelines import storage
from pipelines.limits import VideoLimits
from pipelines.manifest import OK, Manifest
from pipelines.quarantine import SampleError

_COLUMNS = ["shard", "video_offset", "video_bytes", "sha256", "status", "reason"]


class Range(NamedTuple):
    """Bytes [start, stop) of a shard and the wanted samples inside them, as positions in the request."""

    shard: str
    start: int
    stop: int
    positions: tuple[int, ...]


def read_videos(
    manifest: Manifest,
    rows: Sequence[int],
    *,
    max_gap_bytes: int = 64 << 10,
    max_range_bytes: int = 32 << 20,
    num_threads: int = 4,
    limits: VideoLimits = VideoLimits(),
) -> list[bytes | SampleError]:
    """The bytes of the video of every row, in the order of ``rows``, or why there are none.

    Videos that lie near each other in a shard are read by one request of at most ``max_range_bytes`` (more only for
    one single video). The caller bounds memory by the number of rows; a video over ``limits`` is not read at all.

    Raises:
        OSError: the store refuses or does not answer. An outage says nothing about a sample, so it rejects none.
    """
    samples = manifest.table.select(_COLUMNS).take(pa.array(rows, pa.int64())).to_pylist()
    results: list[bytes | SampleError | None] = [_refusal(sample, limits) for sample in samples]
    wanted = [position for position, result in enumerate(results) if result is None]
    ranges = merge_ranges(samples, wanted, max_gap_bytes=max_gap_bytes, max_range_bytes=max_range_bytes)
    with ThreadPoolExecutor(max(1, min(num_threads, len(ranges)))) as pool:
        for found in pool.map(lambda item: list(_read_range(manifest, item, samples)), ranges):
            for position, result in found:
                results[position] = result
    assert all(result is not None for result in results)
    return [result for result in results if result is not None]


def merge_ranges(
    samples: Sequence[dict[str, Any]], positions: Sequence[int], *, max_gap_bytes: int, max_range_bytes: int
) -> list[Range]:
    """Cover the videos at ``positions`` by few ranges, in the order of shards and offsets."""
    ranges: list[Range] = []
    for position in sorted(positions, key=lambda i: (samples[i]["shard"], samples[i]["video_offset"])):
        shard, start = samples[position]["shard"], samples[position]["video_offset"]
        stop = start + samples[position]["video_bytes"]
        if ranges and ranges[-1].shard == shard:
            last = ranges[-1]
            merged = last._replace(stop=max(stop, last.stop), positions=(*last.positions, position))
            if start - last.stop <= max_gap_bytes and merged.stop - merged.start <= max_range_bytes:
                ranges[-1] = merged
                continue
        ranges.append(Range(shard, start, stop, (position,)))
    return ranges


def _refusal(sample: dict[str, Any], limits: VideoLimits) -> SampleError | None:
    """Why a video is not even read, if it isn't."""
    if sample["status"] != OK:
        return SampleError(sample["status"], sample["reason"])
    if sample["video_bytes"] > limits.max_bytes:
        return SampleError("too_large", f"{sample['video_bytes']} bytes, limit {limits.max_bytes}")
    return None


def _read_range(
    manifest: Manifest, item: Range, samples: Sequence[dict[str, Any]]
) -> Iterator[tuple[int, bytes | SampleError]]:
    """(position, video or error) for every sample of the range."""
    try:
        data = storage.read_bytes(manifest.shard_url(item.shard), start=item.start, length=item.stop - item.start)
    except FileNotFoundError:
        data = SampleError("missing_shard", item.shard)
    for position in item.positions:
        yield position, data if isinstance(data, SampleError) else _cut(data, item, samples[position])


def _cut(data: bytes, item: Range, sample: dict[str, Any]) -> bytes | SampleError:
    start, size = sample["video_offset"] - item.start, sample["video_bytes"]
    video = data[start : start + size]
    if len(video) != size:
        return SampleError("short_read", f"{item.shard}: got {len(video)} of {size} bytes at {sample['video_offset']}")
    digest = hashlib.sha256(video).hexdigest()
    if digest != sample["sha256"]:
        return SampleError("changed_bytes", f"{item.shard}: sha256 {digest[:16]}…, indexed {sample['sha256'][:16]}…")
    return video
