"""A census of a shard set as a table to read."""

from collections.abc import Iterator, Mapping

from rich.table import Table

from jobs.text import plain
from pipelines.census import Census, Histogram
from pipelines.indexing import IndexReport
from pipelines.quarantine import REASONS
from pipelines.samples import NOTES
from pipelines.tarwalk import SHARD_REASONS

_BAR = 24
_MOST_ROWS = 12

Row = tuple[str, str, str]


def census_table(name: str, report: IndexReport) -> Table:
    """What a set holds, and what is wrong with it and why."""
    table = Table(title=plain(f"Census of {name}"), title_justify="left", show_header=False)
    table.add_column("what", overflow="fold")
    table.add_column("count", justify="right")
    table.add_column("remark", overflow="fold")
    for section in (_contents(report), _captions(report.census), _videos(report.census), _faults(report)):
        for row in section:
            table.add_row(*map(plain, row))
        table.add_section()
    return table


def human_bytes(count: float) -> str:
    """``1234567`` as ``1.2 MB``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _contents(report: IndexReport) -> Iterator[Row]:
    read = f"{report.num_read} read now" + (f", {report.num_removed} gone" if report.num_removed else "")
    yield "shards", str(report.num_shards), f"{human_bytes(report.num_shard_bytes)}, {read}"
    yield "samples", str(report.num_samples), f"{report.num_ok} sound"
    yield "videos and images", "", human_bytes(report.num_video_bytes)
    yield from _counted(report.census.suffixes, total=report.num_samples, unnamed="(neither)")
    if report.num_ignored:
        yield "members of no use", str(report.num_ignored), ""


def _captions(census: Census) -> Iterator[Row]:
    yield "captions", str(census.num_captions), f"of {census.num_captioned} of {census.num_ok} sound samples"
    yield from _bins(census.captions_a_sample, "captions a sample")
    yield from _bins(census.caption_words, "words a caption")
    yield "longest caption", str(census.longest_caption), "characters"


def _videos(census: Census) -> Iterator[Row]:
    if not census.num_probed:
        return
    total = census.num_probed
    yield "probed", str(total), f"{census.total_seconds / 3600:.2f} hours"
    yield from _counted(census.codecs, total=total)
    yield from _counted(census.sizes, total=total)
    yield from _bins(census.seconds, "seconds")
    for code, count in census.unreadable.most_common():
        yield f"unreadable: {code}", str(count), REASONS[code]


def _faults(report: IndexReport) -> Iterator[Row]:
    for code, count in report.reasons.items():
        yield f"rejected: {code}", str(count), REASONS[code]
    for code, text in NOTES.items():
        notes = [note for note in report.notes if note.code == code]
        if notes:
            example = f"{text}; in {len(notes)} shards, first {notes[0].shard}: {notes[0].example}"
            yield f"strange: {code}", str(sum(note.count for note in notes)), example
    for code, text in SHARD_REASONS.items():
        shards = [bad.shard for bad in report.bad_shards if bad.code == code]
        if shards:
            yield f"damaged: {code}", str(len(shards)), f"{text}; first {shards[0]}"


def _counted(counts: Mapping[str, int], *, total: int, unnamed: str = "") -> Iterator[Row]:
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    for name, count in ranked[:_MOST_ROWS]:
        yield f"  {name or unnamed}", str(count), _bar(count, total)
    if rest := ranked[_MOST_ROWS:]:
        count = sum(count for _, count in rest)
        yield f"  {len(rest)} others", str(count), _bar(count, total)


def _bins(histogram: Histogram, what: str) -> Iterator[Row]:
    total = int(histogram.counts.sum())
    yield what, "", ""
    for (above, upto), count in zip(histogram.bins(), histogram.counts.tolist(), strict=True):
        if count:
            yield f"  {_bin_name(above, upto, whole=histogram.whole)}", str(count), _bar(count, total)


def _bin_name(above: int | None, upto: int | None, *, whole: bool) -> str:
    """The values above ``above`` up to ``upto``; of whole numbers the first and the last one."""
    if upto is None:
        return f"over {above}"
    if not whole:
        return f"up to {upto}" if above is None else f"{above} to {upto}"
    first = 0 if above is None else above + 1
    return str(upto) if first == upto else f"{first} to {upto}"


def _bar(count: int, total: int) -> str:
    share = count / max(total, 1)
    return f"{'█' * round(_BAR * share)} {share:.1%}"
