"""``inspect_shard``: show what is in one shard, what is wrong with it, and what to do."""

import dataclasses
import functools
import io
import shlex
from collections import Counter
from collections.abc import Sequence
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from fpig_core.preprocess import Preprocess
from fpig_core.thumbnails import FRAME_PX, FRAMES, Thumbnail, draw_thumbnails
from jobs.census_table import human_bytes
from jobs.cli import Report, launch
from jobs.remedies import REMEDIES
from jobs.text import plain
from pipelines import storage
from pipelines.guarded import decode_guarded, probe_guarded
from pipelines.limits import VideoLimits
from pipelines.probe import Probe
from pipelines.quarantine import OK, REASONS, SampleError
from pipelines.samples import NOTES, Found, Sample
from pipelines.shard_index import read_samples
from pipelines.suffixes import IMAGE_SUFFIXES
from pipelines.tarwalk import SHARD_REASONS

EXAMPLE = "python -m jobs.inspect_shard runs/demo/shards/test/shard-000000.tar --out shard.png"
MAX_TEXT = 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Show the samples of one shard (key, members, captions, state), what is wrong with it and what to do about it.

    Only headers and captions are read, and with --out the videos that are drawn.
    """

    shard: tyro.conf.Positional[str]
    """Path or URL of a .tar."""
    out: str = ""
    """PNG file for the first, middle and last frame of each video."""
    key: tuple[str, ...] = ()
    """Samples to show; by default the first ones, those with a fault before the others."""
    num_samples: int = 20
    """How many samples to show when none is named."""
    json: str = ""
    """Write all samples of the shard to this file."""


def main(args: Args) -> Report:
    if args.out and not args.out.endswith(".png"):
        raise ValueError(f"got out={args.out!r}, wanted a file that ends in .png")
    found, num_bytes = read_shard(args.shard)
    entries = [describe(args.shard, sample, num_bytes) for sample in found.samples]
    shown = choose(entries, args.key, num_samples=args.num_samples)
    console = Console()
    console.print(samples_table(shown, num_samples=len(entries)))
    faults = list_faults(found, entries)
    if faults:
        console.print(faults_table(faults))
    if args.out:
        storage.write_bytes(args.out, draw(args.shard, shown))
    states = Counter(entry["status"] for entry in entries)
    summary = {
        "shard": args.shard,
        "bytes": num_bytes,
        "num_samples": len(entries),
        "num_ok": states[OK],
        "num_captioned": sum(bool(entry["captions"]) for entry in entries if entry["status"] == OK),
        "num_unreadable": sum(entry["probe"] not in ("", OK) for entry in entries),
        "num_ignored": found.num_ignored,
        "damage": str(found.damage.code) if found.damage else "none",
        "faults": faults,
        "samples": entries,
    }
    again = shlex.quote(storage.parent(args.shard))
    return Report(
        title=f"Shard {args.shard}",
        summary=summary | ({"picture": args.out} if args.out else {}),
        next_command=f"python -m jobs.index_shards {again}",
    )


def read_shard(url: str) -> tuple[Found, int]:
    """Content and bytes of a shard.

    Raises:
        ValueError: there is no such file.
    """
    try:
        num_bytes = storage.size(url)
        return read_samples(url, num_bytes=num_bytes, with_digests=False), num_bytes
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise ValueError(
            f"got {url}, wanted the .tar of one shard; a set of them: python -m jobs.index_shards"
        ) from None


def describe(url: str, sample: Sample, num_bytes: int) -> dict[str, Any]:
    """One sample as plain values: its row, its members with their sizes, and what its header tells."""
    row = sample.row(url, num_bytes)
    members = {suffix: media.num_bytes for suffix, media in sample.media.items()}
    members |= {suffix: len(text) for suffix, text in sample.text.items()}
    probe = Probe()
    if row["status"] == OK:
        read = functools.partial(_read, url, row["video_offset"])
        probe = probe_guarded(read, num_bytes=row["video_bytes"], suffix=row["video_suffix"])
    kept = ("key", "video_id", "captions", "start_s", "end_s", "video_suffix", "video_offset", "video_bytes")
    return {name: row[name] for name in (*kept, "status", "reason")} | {"members": members} | probe._asdict()


def choose(entries: Sequence[dict[str, Any]], keys: Sequence[str], *, num_samples: int) -> list[dict[str, Any]]:
    """The samples to show, in the order of the shard.

    Raises:
        ValueError: a key that the shard does not hold.
    """
    if keys:
        known = {entry["key"]: entry for entry in entries}
        if unknown := [key for key in keys if key not in known]:
            raise ValueError(f"got key {unknown[0]!r}, which the shard does not hold; leave --key out to see some")
        return [known[key] for key in keys]
    faulty_first = sorted(range(len(entries)), key=lambda i: not code_of(entries[i]))[:num_samples]
    return [entries[i] for i in sorted(faulty_first)]


def code_of(entry: dict[str, Any]) -> str:
    """Reason code of a sample that cannot be used, else ""."""
    return next((code for code in (entry["status"], entry["probe"]) if code not in ("", OK)), "")


def list_faults(found: Found, entries: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """What is wrong: ``what``, ``where`` (an example), ``means``, ``remedy``."""
    faults = []
    if found.damage:
        code, detail = found.damage.code, found.damage.detail
        faults.append(_fault(f"shard: {code}", detail, SHARD_REASONS[code], code))
    for code, count in Counter(filter(None, map(code_of, entries))).most_common():
        first = next(entry for entry in entries if code_of(entry) == code)
        where = f"{first['key']}: {first['reason']}" if first["reason"] else first["key"]
        faults.append(_fault(f"{count} × {code}", where, REASONS[code], code))
    for note in found.notes:
        faults.append(_fault(f"{note.count} × {note.code}", note.example, NOTES[note.code], note.code))
    return faults


def _fault(what: str, where: str, means: str, code: str) -> dict[str, str]:
    return {"what": what, "where": where[:MAX_TEXT], "means": means, "remedy": REMEDIES[code]}


def samples_table(entries: Sequence[dict[str, Any]], *, num_samples: int) -> Table:
    table = Table(title=f"{len(entries)} of {num_samples} samples", title_justify="left")
    for name in ("key", "members", "video", "captions", "state"):
        table.add_column(name, overflow="fold")
    for entry in entries:
        members = ", ".join(f"{suffix} {human_bytes(size)}" for suffix, size in entry["members"].items())
        cells = (entry["key"][:MAX_TEXT], members, _video(entry), _captions(entry), code_of(entry) or OK)
        table.add_row(*map(plain, cells))
    return table


def faults_table(faults: Sequence[dict[str, str]]) -> Table:
    table = Table(title="What is wrong, and what to do", title_justify="left")
    table.add_column("what")
    table.add_column("where, why, and the remedy", overflow="fold")
    for fault in faults:
        table.add_row(plain(fault["what"]), plain(f"{fault['where']}\n{fault['means']}\n→ {fault['remedy']}"))
        table.add_section()
    return table


def _video(entry: dict[str, Any]) -> str:
    if entry["width"] is None:
        return ""
    seconds = "" if entry["duration_s"] is None else f", {entry['duration_s']:.1f} s"
    return f"{entry['codec']} {entry['width']}×{entry['height']}{seconds}"


def _captions(entry: dict[str, Any]) -> str:
    first, *others = entry["captions"] or ["(none)"]
    return first[:MAX_TEXT] + (f" (+{len(others)})" if others else "")


def draw(url: str, entries: Sequence[dict[str, Any]]) -> bytes:
    """The contact sheet as PNG."""
    sheet = draw_thumbnails([_thumbnail(url, entry) for entry in entries], heading=url)
    sink = io.BytesIO()
    sheet.save(sink, "PNG", optimize=True)
    return sink.getvalue()


def _thumbnail(url: str, entry: dict[str, Any]) -> Thumbnail:
    # The font of the picture has no multiplication sign.
    title, caption = f"{entry['key']}   {_video(entry).replace('×', 'x')}", _captions(entry)
    num_frames = 1 if entry["video_suffix"] in IMAGE_SUFFIXES else FRAMES
    try:
        if code := code_of(entry):
            raise SampleError(code, entry["reason"])
        if entry["video_bytes"] > VideoLimits().max_bytes:
            raise SampleError("too_large", human_bytes(entry["video_bytes"]))
        data = _read(url, entry["video_offset"], 0, entry["video_bytes"])
        preprocess = Preprocess(num_frames=num_frames, size=FRAME_PX, resize_mode="shortest")
        frames = decode_guarded(entry, data, preprocess=preprocess)
    except SampleError as error:
        return Thumbnail(title, caption, None, f"{error}: {REMEDIES[error.code]}")
    return Thumbnail(title, caption, frames)


def _read(url: str, base: int, start: int, length: int) -> bytes:
    return storage.read_bytes(url, start=base + start, length=length)


def cli() -> None:
    launch(Args, main, example=EXAMPLE)


if __name__ == "__main__":
    cli()
