"""From sources to shards: which sample goes into which shard is settled from sizes before anything is written."""

import functools
import hashlib
import json
from collections.abc import Iterator, Sequence

from pipelines import storage
from pipelines.guarded import transcode_guarded
from pipelines.quarantine import SampleError
from pipelines.shard_set import Reject, Sample, ShardTask
from pipelines.sources import Source
from pipelines.suffixes import VIDEO_SUFFIXES
from pipelines.transcode import Encoding

_BLOCK = 512


def shard_name(number: int) -> str:
    return f"shard-{number:06d}.tar"


def plan_shard_set(
    sources: Sequence[Source], out_url: str, *, shard_bytes: int, encoding: Encoding | None = None
) -> list[ShardTask]:
    """The tasks that write ``shard-000000.tar`` … under ``out_url``: samples in order, keys ``000000000`` ….

    A shard holds at least one sample and otherwise at most ``shard_bytes`` of members, as large as they lie at their
    sources. With ``encoding`` videos are transcoded and their segments cut out.
    """
    tasks, first = [], 0
    for number, shard in enumerate(cut_shards(sources, shard_bytes=shard_bytes)):
        inputs = [[*source.record, source.num_bytes, source.mark] for source in shard]
        tasks.append(
            ShardTask(
                out_url=storage.absolute(out_url),
                name=shard_name(number),
                inputs=hashlib.sha256(json.dumps([first, inputs, repr(encoding)]).encode()).hexdigest(),
                num_samples=len(shard),
                num_bytes=sum(source.num_bytes for source in shard),
                make=functools.partial(make_samples, shard, first=first, encoding=encoding),
            )
        )
        first += len(shard)
    return tasks


def cut_shards(sources: Sequence[Source], *, shard_bytes: int) -> list[list[Source]]:
    """Cut the sources, in order, into runs whose members fill at most ``shard_bytes``."""
    shards: list[list[Source]] = []
    room = 0
    for source in sources:
        sizes = (source.num_bytes, len(_metadata(source, is_cut=False)))
        need = sum(_BLOCK + -(-size // _BLOCK) * _BLOCK for size in sizes)
        if need > room or not shards:
            shards.append([])
            room = shard_bytes
        shards[-1].append(source)
        room -= need
    return shards


def make_samples(sources: Sequence[Source], *, first: int, encoding: Encoding | None) -> Iterator[Sample | Reject]:
    """The samples of a shard; one that is rejected leaves its number unused."""
    for number, source in enumerate(sources, start=first):
        is_coded = encoding is not None and source.suffix in VIDEO_SUFFIXES
        try:
            data, suffix = _read(source), source.suffix
            if encoding is not None and is_coded:
                start_s, end_s = source.record.start_s, source.record.end_s
                data = transcode_guarded(data, suffix=suffix, encoding=encoding, start_s=start_s, end_s=end_s)
                suffix = "mp4"
        except SampleError as error:
            yield Reject(source.record.path, error.code, error.detail)
        else:
            yield Sample(f"{number:09d}", {suffix: data, "json": _metadata(source, is_cut=is_coded)})


def _read(source: Source) -> bytes:
    try:
        data = storage.read_bytes(source.url)
    except FileNotFoundError:
        raise SampleError("missing_video", "it was there when the shards were planned") from None
    if len(data) != source.num_bytes:
        raise SampleError("changed_bytes", f"{len(data)} bytes, {source.num_bytes} when the shards were planned")
    return data


def _metadata(source: Source, *, is_cut: bool) -> bytes:
    """The json member. Once a segment is cut out its times belong to the source alone."""
    record, prefix = source.record, "source_" if is_cut else ""
    fields = {
        "video_id": record.video_id,
        "captions": list(record.captions),
        f"{prefix}start_s": record.start_s,
        f"{prefix}end_s": record.end_s,
        "source": record.path,
    }
    # Half of a surrogate pair, from JSON or a file name that is not UTF-8, becomes JSON's own escape of it.
    present = {name: value for name, value in fields.items() if value is not None}
    return json.dumps(present, ensure_ascii=False, sort_keys=True).encode("utf-8", "backslashreplace")
