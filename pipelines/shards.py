"""Write shards: records and their videos (or images) in, WebDataset tars of about equal size out, always the same."""

import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from webdataset.writer import TarWriter

from pipelines import storage
from pipelines.annotations import Problem, Record, match_videos
from pipelines.manifest import IMAGE_SUFFIXES, VIDEO_SUFFIXES

WRITTEN_NAME = "_WRITTEN.json"
_BLOCK = 512
_ALLOWED = (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WriteReport:
    """``written`` is False if the shards of these inputs were complete before."""

    num_samples: int
    num_shards: int
    num_bytes: int
    written: bool
    problems: list[Problem]


def write_shards(
    records: list[Record],
    out_url: str,
    *,
    videos_url: str,
    shard_bytes: int = 64 << 20,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> WriteReport:
    """Write ``shard-000000.tar`` … under ``out_url``, and ``_WRITTEN.json`` when all of them are there.

    A shard holds at least one sample and otherwise at most ``shard_bytes`` of members. Any file of a known suffix goes
    in, sound or not. ``progress`` is called with (samples done, samples in all).

    Raises:
        ValueError: no video is left, or the folder holds shards of other inputs.
    """
    listed = {storage.relative(url, videos_url): stamp for url, stamp in storage.list_stamps(videos_url).items()}
    matched, problems = match_videos(records, list(listed))
    kept = [record for record in matched if _suffix(record) in _ALLOWED]
    problems += [Problem(0, "bad_suffix", record.path) for record in matched if _suffix(record) not in _ALLOWED]
    if not kept:
        raise ValueError(
            f"got {len(records)} records, {len(listed)} files under {videos_url} and no video or image for any record; "
            "check the folder and the column of file names"
        )
    plan = plan_shards(kept, {record.path: listed[record.path][0] for record in kept}, shard_bytes=shard_bytes)
    digest = _digest([[[*record, *listed[record.path]] for record in shard] for shard in plan])
    is_complete = _check_folder(out_url, digest, num_shards=len(plan))
    if not is_complete:
        _write_all(plan, out_url, videos_url, progress)
        summary = {"inputs": digest, "num_samples": len(kept), "num_shards": len(plan), "problems": problems}
        storage.write_bytes(storage.join(out_url, WRITTEN_NAME), json.dumps(summary, indent=1).encode() + b"\n")
    return WriteReport(
        num_samples=len(kept),
        num_shards=len(plan),
        num_bytes=sum(storage.size(storage.join(out_url, shard_name(i))) for i in range(len(plan))),
        written=not is_complete,
        problems=problems,
    )


def shard_name(number: int) -> str:
    return f"shard-{number:06d}.tar"


def plan_shards(records: list[Record], num_bytes: dict[str, int], *, shard_bytes: int) -> list[list[Record]]:
    """Cut the records, in order, into runs whose members fill at most ``shard_bytes``."""
    plan: list[list[Record]] = []
    room = 0
    for record in records:
        need = sum(_BLOCK + -(-size // _BLOCK) * _BLOCK for size in (num_bytes[record.path], len(_metadata(record))))
        if need > room or not plan:
            plan.append([])
            room = shard_bytes
        plan[-1].append(record)
        room -= need
    return plan


def _write_all(plan: list[list[Record]], out_url: str, videos_url: str, progress: Callable[[int, int], None]) -> None:
    done, total = 0, sum(map(len, plan))
    for number, shard in enumerate(plan):
        with tempfile.TemporaryDirectory() as folder:
            draft = Path(folder) / shard_name(number)
            with open(draft, "wb") as sink, _tar_writer(sink) as tar:
                for record in shard:
                    video = storage.read_bytes(storage.join(videos_url, record.path))
                    tar.write({"__key__": f"{done:09d}", _suffix(record): video, "json": _metadata(record)})
                    done += 1
                    progress(done, total)
            storage.upload(draft, storage.join(out_url, shard_name(number)))


def _tar_writer(sink: Any) -> TarWriter:
    """A writer without clock, user or machine in its bytes; PAX headers appear for members from 8 GiB only."""
    return TarWriter(sink, encoder=False, mtime=0, user="", group="", format="PAX_FORMAT")


def _metadata(record: Record) -> bytes:
    fields = {
        "video_id": record.video_id,
        "captions": list(record.captions),
        "start_s": record.start_s,
        "end_s": record.end_s,
        "source": record.path,
    }
    present = {name: value for name, value in fields.items() if value is not None}
    return json.dumps(present, ensure_ascii=False, sort_keys=True).encode()


def _suffix(record: Record) -> str:
    return PurePosixPath(record.path).suffix.lower().lstrip(".")


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _check_folder(out_url: str, digest: str, *, num_shards: int) -> bool:
    """True if the folder holds exactly these shards, complete; False if they are still to be written."""
    written_url = storage.join(out_url, WRITTEN_NAME)
    remedy = "choose another folder or remove this one"
    if storage.exists(written_url):
        if json.loads(storage.read_bytes(written_url))["inputs"] == digest:
            return True
        raise ValueError(f"got {out_url} with the shards of other inputs; {remedy}")
    expected = {storage.join(out_url, shard_name(number)) for number in range(num_shards)}
    strangers = [url for url in storage.list_files(out_url, suffix=".tar") if url not in expected]
    if strangers:
        raise ValueError(f"got {len(strangers)} other shards in {out_url}, such as {strangers[0]}; {remedy}")
    return False
