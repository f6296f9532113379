"""Pack videos or images and a table of captions into WebDataset shards."""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence

from jobs.budget import parse_fraction
from jobs.cli import DONE, OVER_BUDGET, Report, launch
from jobs.shard_progress import write_missing
from pipelines import storage
from pipelines.annotations import Columns, Problem
from pipelines.shard_set import SetReport, ShardTask, claim_set, finish_set
from pipelines.shards import plan_shard_set
from pipelines.sources import find_sources
from pipelines.transcode import Encoding

EXAMPLE = (
    "python -m jobs.write_shards --videos runs/world/videos --captions runs/world/captions.csv --out runs/world/shards"
)
REJECTED_NAME = "rejected.jsonl"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Write OUT/SPLIT/shard-000000.tar … for every split of the table, and OUT/rejected.jsonl.

    The same inputs and settings give the same bytes, with any number of workers. The same command again writes what is
    missing, and nothing else.
    """

    out: str
    """Folder or URL of the shards."""
    videos: str = ""
    """Folder of the videos or images (a path or s3://…), or a list of their locations: .txt with one on each line, or a
    table. Without it the table of captions holds paths or URLs itself."""
    captions: str = ""
    """Table of captions: .csv, .tsv, .jsonl or .parquet. Without it all videos are written, without captions."""
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
    if args.shard_mb <= 0 or args.num_workers < 0:
        raise ValueError(
            f"got --shard-mb {args.shard_mb} and --num-workers {args.num_workers}, wanted more than 0 and at least 0"
        )
    budget = parse_fraction(args.max_rejected)
    storage.require_writable(args.out)
    found = find_sources(args.videos, args.captions, columns=args.columns, list_column=args.list_column)
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
    return report(args, found.problems, reports, lost=lost, num_unnamed=found.num_unnamed, budget=budget)


def write_rejected(out: str, problems: Sequence[Problem], reports: dict[str, SetReport]) -> list[dict[str, object]]:
    """Everything that was left out, which OUT/rejected.jsonl holds too."""
    lost: list[dict[str, object]] = [
        {"video": problem.video, "reason": problem.kind, "detail": problem.detail, "row": problem.row, "split": ""}
        for problem in problems
        if problem.is_loss
    ]
    lost += [
        {"video": reject.sample, "reason": reject.reason, "detail": reject.detail, "row": 0, "split": split}
        for split, found in reports.items()
        for reject in found.rejected
    ]
    lines = "".join(json.dumps(row, sort_keys=True) + "\n" for row in lost)
    storage.write_bytes(storage.join(out, REJECTED_NAME), lines.encode())
    return lost


def report(
    args: Args,
    problems: Sequence[Problem],
    reports: dict[str, SetReport],
    *,
    lost: Sequence[dict[str, object]],
    num_unnamed: int,
    budget: float,
) -> Report:
    summary: dict = {"out": args.out}
    for split, found in reports.items():
        state = "" if found.written else " (already there)"
        summary[split] = f"{found.num_samples} samples in {found.num_shards} shards{state}"
    num_samples = sum(found.num_samples for found in reports.values())
    summary |= {"num_samples": num_samples, "num_rejected": len(lost)}
    summary |= {"num_bytes": sum(found.num_bytes for found in reports.values())}
    if num_unnamed:
        summary["videos without a row"] = num_unnamed
    doubts = [problem for problem in problems if not problem.is_loss]
    counts = Counter(row["reason"] for row in lost) + Counter(problem.kind for problem in doubts)
    summary |= {f"problem: {kind}": count for kind, count in sorted(counts.items(), key=str)}
    summary["doubts"] = [problem._asdict() for problem in doubts]
    is_over = len(lost) > budget * (num_samples + len(lost))
    if lost:
        summary["rejected"] = storage.join(args.out, REJECTED_NAME)
    if is_over:
        summary["budget"] = f"exceeded: {len(lost)} of {num_samples + len(lost)} left out, {budget:.2%} allowed"
    return Report(
        title="Shards" if not is_over else f"Shards: over the budget of {args.max_rejected} rejected samples",
        summary=summary,
        next_command=f"python -m jobs.index_shards {args.out}",
        exit_code=OVER_BUDGET if is_over else DONE,
    )


def cli() -> None:
    launch(Args, main, example=EXAMPLE)


if __name__ == "__main__":
    cli()
