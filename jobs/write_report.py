"""What ``write_shards`` tells at its end: what was written, or would be, what was left out, and why."""

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from jobs.cli import DONE, OVER_BUDGET, Report
from jobs.import_table import import_table
from pipelines import storage
from pipelines.annotations import Problem, Record
from pipelines.datasets.consistency import Consistency
from pipelines.shard_set import SetReport

REJECTED_NAME = "rejected.jsonl"


def written_report(
    out: str,
    problems: Sequence[Problem],
    reports: Mapping[str, SetReport],
    *,
    lost: Sequence[dict[str, Any]],
    num_unnamed: int,
    max_rejected: str,
    budget: float,
) -> Report:
    """The report of shards that are written."""
    summary: dict[str, Any] = {"out": out}
    for split, found in reports.items():
        state = "" if found.written else " (already there)"
        summary[split] = f"{found.num_samples} samples in {found.num_shards} shards{state}"
    num_samples = sum(found.num_samples for found in reports.values())
    summary |= {"num_samples": num_samples, "num_rejected": len(lost)}
    summary |= {"num_bytes": sum(found.num_bytes for found in reports.values())}
    if num_unnamed:
        summary["videos without a row"] = num_unnamed
    summary |= _told(problems, lost)
    if lost:
        summary["rejected"] = storage.join(out, REJECTED_NAME)
    return _judged("Shards", summary, f"python -m jobs.index_shards {out}", max_rejected=max_rejected, budget=budget)


def dry_report(
    records: Sequence[Record], problems: Sequence[Problem], *, next_command: str, max_rejected: str, budget: float
) -> Report:
    """The report of what would be written."""
    lost = lost_to(problems)
    splits = Counter(record.split for record in records)
    summary: dict[str, Any] = {"out": "nothing written"}
    summary |= {split: f"{count} samples" for split, count in sorted(splits.items())}
    summary |= {"num_samples": len(records), "num_rejected": len(lost), **_told(problems, lost), "rejected": lost}
    return _judged("Dry run", summary, next_command, max_rejected=max_rejected, budget=budget)


def with_consistency(done: Report, consistency: Consistency) -> Report:
    """The report with the counts of a benchmark, which are printed as well."""
    Console().print(import_table(consistency))
    summary = {"protocol": f"{consistency.protocol}: {consistency.queries}"} | dict(done.summary)
    return dataclasses.replace(done, summary=summary | {"consistency": consistency.as_dict()})


def write_rejected(out: str, problems: Sequence[Problem], reports: Mapping[str, SetReport]) -> list[dict[str, Any]]:
    """Everything that was left out, which OUT/rejected.jsonl holds too."""
    lost = lost_to(problems)
    lost += [
        {"video": reject.sample, "reason": reject.reason, "detail": reject.detail, "row": 0, "split": split}
        for split, found in reports.items()
        for reject in found.rejected
    ]
    lines = "".join(json.dumps(row, sort_keys=True) + "\n" for row in lost)
    storage.write_bytes(storage.join(out, REJECTED_NAME), lines.encode())
    return lost


def lost_to(problems: Sequence[Problem]) -> list[dict[str, Any]]:
    """The problems that cost a sample, as rows of ``rejected.jsonl``."""
    return [
        {"video": problem.video, "reason": problem.kind, "detail": problem.detail, "row": problem.row, "split": ""}
        for problem in problems
        if problem.is_loss
    ]


def _told(problems: Sequence[Problem], lost: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts of all that was lost or is in doubt, and the doubts themselves."""
    doubts = [problem for problem in problems if not problem.is_loss]
    counts = Counter(row["reason"] for row in lost) + Counter(problem.kind for problem in doubts)
    told: dict[str, Any] = {f"problem: {kind}": count for kind, count in sorted(counts.items(), key=str)}
    return told | {"doubts": [problem._asdict() for problem in doubts]}


def _judged(title: str, summary: dict[str, Any], next_command: str, *, max_rejected: str, budget: float) -> Report:
    """The report, with the exit code that the error budget gives."""
    num_lost = summary["num_rejected"]
    num_samples = summary["num_samples"] + num_lost
    is_over = num_lost > budget * num_samples
    if is_over:
        summary["budget"] = f"exceeded: {num_lost} of {num_samples} left out, {budget:.2%} allowed"
    return Report(
        title=f"{title}: over the budget of {max_rejected} rejected samples" if is_over else title,
        summary=summary,
        next_command=next_command,
        exit_code=OVER_BUDGET if is_over else DONE,
    )
