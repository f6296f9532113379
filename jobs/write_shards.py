"""Pack a folder of videos or images and a table of captions into WebDataset shards."""

import dataclasses
from collections import Counter

from rich.progress import Progress

from jobs.cli import Report, launch
from pipelines import storage
from pipelines.annotations import Columns, read_caption_table
from pipelines.shards import write_shards


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Write OUT/SPLIT/shard-000000.tar … for every split of the table. Rows that are left out are reported."""

    videos: str
    """Folder of the videos or images: a path or s3://…"""
    captions: str
    """Table of captions: .csv, .tsv, .jsonl or .parquet."""
    out: str
    shard_mb: float = 64.0
    """Size that a shard does not exceed unless one sample does, in MiB."""
    columns: Columns = Columns()
    json: str = ""
    """Also write the summary to this file."""


def main(args: Args) -> Report:
    if args.shard_mb <= 0:
        raise ValueError(f"got --shard-mb {args.shard_mb}, wanted more than 0")
    storage.check_url(args.out)
    table = read_caption_table(args.captions, columns=args.columns)
    splits = sorted({record.split for record in table.records})
    problems = list(table.problems)
    summary: dict = {"out": args.out}
    with Progress(transient=True) as bar:
        for split in splits:
            task = bar.add_task(split, total=None)
            report = write_shards(
                [record for record in table.records if record.split == split],
                storage.join(args.out, split),
                videos_url=args.videos,
                shard_bytes=int(args.shard_mb * 2**20),
                progress=lambda done, total, task=task: bar.update(task, completed=done, total=total),
            )
            state = "" if report.written else " (already there)"
            summary[split] = f"{report.num_samples} samples in {report.num_shards} shards{state}"
            problems += report.problems
    counts = Counter(problem.kind for problem in problems)
    summary |= {f"problem: {kind}": count for kind, count in sorted(counts.items())}
    summary["problems"] = [problem._asdict() for problem in problems]
    return Report(title="Shards", summary=summary, next_command=f"python -m jobs.index_shards {args.out}")


def cli() -> None:
    launch(
        Args,
        main,
        example="python -m jobs.write_shards --videos runs/world/videos --captions runs/world/captions.csv "
        "--out runs/world/shards",
    )


if __name__ == "__main__":
    cli()
