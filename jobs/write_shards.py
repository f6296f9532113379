"""Pack videos or images and a table of captions into WebDataset shards."""

import dataclasses

from jobs.budget import parse_fraction
from jobs.cli import Report, launch
from jobs.shard_progress import write_missing
from jobs.write_report import dry_report, with_consistency, write_rejected, written_report
from pipelines import storage
from pipelines.annotations import Columns, read_caption_table
from pipelines.datasets.consistency import compare, write_marks
from pipelines.datasets.importing import Imported, other_paths, read_dataset
from pipelines.shard_set import ShardTask, claim_set, finish_set
from pipelines.shards import plan_shard_set
from pipelines.sources import Found, find_sources, match_sources
from pipelines.transcode import Encoding

EXAMPLE = (
    "python -m jobs.write_shards --videos runs/world/videos --captions runs/world/captions.csv --out runs/world/shards"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Write OUT/SPLIT/shard-000000.tar … for every split of a table or benchmark, and OUT/rejected.jsonl.

    The same inputs and settings give the same bytes, with any number of workers. The same command again writes what is
    missing, and nothing else.
    """

    out: str = ""
    """Folder or URL of the shards."""
    videos: str = ""
    """Folder of the videos or images (a path or s3://…), or a list of their locations: .txt with one on each line, or a
    table. Without it the table of captions holds paths or URLs itself."""
    captions: str = ""
    """Table of captions: .csv, .tsv, .jsonl or .parquet. Without it all videos are written, without captions."""
    dataset: str = ""
    """Benchmark whose annotation files --annotations holds, in place of --captions: msrvtt-1k, msrvtt-7k, msrvtt-3k,
    msvd, vatex, didemo, activitynet, lsmdc; or captions, paragraphs for others in a format of --layout. Its videos are
    found in --videos by their ids, whatever the suffix."""
    annotations: str = ""
    """Folder or URL of the benchmark's annotation files, as they were published."""
    layout: str = ""
    """Format of these files where there are several; a wrong name lists them."""
    split_files: dict[str, str] = dataclasses.field(default_factory=dict)
    """Files of the splits in --annotations, for the layouts jsonl and vindlu: train a.jsonl test b.jsonl."""
    hold_out: int | None = None
    """Training videos that become the validation split of a benchmark without one; by default 500."""
    dry_run: bool = False
    """Read annotations, look for the videos if --videos is given, report, and write nothing."""
    list_column: str = "video"
    """Column of the locations, if --videos is a table."""
    columns: Columns = Columns()
    shard_mb: float = 256.0
    """Size that a shard does not exceed unless one sample does, in MiB."""
    transcode: bool = False
    """Make the videos small and quick to enter, as --encoding tells, and cut segments out."""
    encoding: Encoding = Encoding()
    num_workers: int = 0
    """Shards written at the same time, on the Ray cluster if there are more than one; 0 chooses by the amount of work,
    and does a little in this process."""
    max_rejected: str = "1%"
    """Error budget: with a larger part of the samples left out, the job ends with exit code 3."""
    json: str = ""
    """Also write the summary to this file."""


def main(args: Args) -> Report:
    check(args)
    budget = parse_fraction(args.max_rejected)
    imported = read_benchmark(args) if args.dataset else None
    if args.dry_run:
        return dry_run(args, imported, budget=budget)
    storage.require_writable(args.out)
    found = find(args, imported)
    sets: dict[str, list[ShardTask]] = {}
    for split in sorted({source.record.split for source in found.sources}):
        sets[split] = plan_shard_set(
            [source for source in found.sources if source.record.split == split],
            storage.join(args.out, split),
            shard_bytes=int(args.shard_mb * 2**20),
            encoding=args.encoding if args.transcode else None,
        )
        claim_set(sets[split])
    write_missing(list(sets.values()), num_workers=args.num_workers, is_heavy=args.transcode)
    reports = {split: finish_set(tasks) for split, tasks in sets.items()}
    lost = write_rejected(args.out, found.problems, reports)
    done = written_report(
        args.out,
        found.problems,
        reports,
        lost=lost,
        num_unnamed=found.num_unnamed,
        max_rejected=args.max_rejected,
        budget=budget,
    )
    if imported is None:
        return done
    records = [source.record for source in found.sources]
    consistency = compare(imported, records=records, problems=found.problems, num_unnamed=found.num_unnamed)
    write_marks(consistency, args.out)
    return with_consistency(done, consistency)


def check(args: Args) -> None:
    """Raise ValueError for options that do not go together."""
    if args.shard_mb <= 0 or args.num_workers < 0:
        raise ValueError(
            f"got --shard-mb {args.shard_mb} and --num-workers {args.num_workers}, wanted more than 0 and at least 0"
        )
    if not args.out and not args.dry_run:
        raise ValueError("got no --out, wanted the folder or URL of the shards, or --dry-run")
    if bool(args.dataset) != bool(args.annotations) or (args.dataset and args.captions):
        given = " and ".join(f"--{name}" for name in ("dataset", "annotations", "captions") if getattr(args, name))
        raise ValueError(f"got {given}, wanted --dataset and --annotations for a benchmark, or --captions for your own")
    if not args.dataset and (args.layout or args.split_files or args.hold_out is not None):
        raise ValueError("got --layout, --split-files or --hold-out without --dataset, which they belong to")
    if args.dataset and not args.videos and not args.dry_run:
        raise ValueError(f"got --dataset {args.dataset} without --videos, wanted their folder or list, or --dry-run")


def read_benchmark(args: Args) -> Imported:
    return read_dataset(
        args.dataset, args.annotations, layout=args.layout, split_files=args.split_files, num_held_out=args.hold_out
    )


def find(args: Args, imported: Imported | None) -> Found:
    """The videos to write, of a benchmark or of the user's own table."""
    if imported is None:
        return find_sources(args.videos, args.captions, columns=args.columns, list_column=args.list_column)
    return match_sources(
        args.videos,
        imported.annotations,
        told_by=args.annotations,
        by_end=True,
        with_images=False,
        other_paths=other_paths(imported.layout),
        list_column=args.list_column,
    )


def dry_run(args: Args, imported: Imported | None, *, budget: float) -> Report:
    """What would be written, from annotations, and from the names of the videos if they are given."""
    num_unnamed = 0
    if args.videos or not (imported or args.captions):
        found = find(args, imported)
        records, problems, num_unnamed = [source.record for source in found.sources], found.problems, found.num_unnamed
    elif imported:
        records, problems = imported.annotations
    else:
        records, problems = read_caption_table(args.captions, columns=args.columns, locations=True)
    next_command = "the same without --dry-run" + ("" if args.videos else ", with --videos")
    done = dry_report(records, problems, next_command=next_command, max_rejected=args.max_rejected, budget=budget)
    if imported is None:
        return done
    return with_consistency(done, compare(imported, records=records, problems=problems, num_unnamed=num_unnamed))


def cli() -> None:
    launch(Args, main, example=EXAMPLE)


if __name__ == "__main__":
    cli()
