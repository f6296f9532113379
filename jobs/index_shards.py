"""Write the manifest of a shard set and report what is wrong with it."""

import dataclasses
import shlex
from typing import Literal

import tyro
from rich.console import Console
from rich.progress import Progress

from cluster.session import connect
from jobs.budget import parse_fraction
from jobs.census_table import census_table
from jobs.cli import OVER_BUDGET, Report, launch
from pipelines import storage
from pipelines.indexing import IndexReport, IndexSettings, index_shards
from pipelines.places import absolute
from pipelines.shard_list import find_shards


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Index ROOT if it holds tars, else each of its sub-folders that does: every set gets its own manifest.parquet.

    A shard that has not changed since the last time is not read again. A census of each set is printed.

    Exit code 3: more samples are rejected (or, with --probe, unreadable) than allowed, or, with an allowance under
    100%, a shard is damaged as a whole and may have lost samples that cannot be counted.
    """

    root: tyro.conf.Positional[str]
    max_rejected: str = "100%"
    """Largest share of rejected samples, such as 1% or 0.01."""
    digest: Literal["full", "none"] = "full"
    """full reads every byte, for the SHA-256 of each video. none reads headers and texts only and skips the videos:
    nobody then notices bytes that change in place, and the digest of the manifest does not tell a video from another
    of the same size."""
    probe: bool = False
    """Also read the header of each video: codec, size and length become columns of the manifest and of the census."""
    incremental: bool = True
    """Read only shards whose bytes or time of change (ETag in a store) differ from the last time."""
    workers: Literal["threads", "ray"] = "threads"
    """ray spreads the shards over the cluster of RAY_ADDRESS, for sets of very many."""
    num_workers: int = 4
    """Shards (with ray: tasks of some shards each) read at the same time."""
    json: str = ""
    """Also write the summary to this file."""


def main(args: Args) -> Report:
    budget = parse_fraction(args.max_rejected)
    settings = IndexSettings(
        digest=args.digest,
        probe=args.probe,
        incremental=args.incremental,
        workers=args.workers,
        num_workers=args.num_workers,
    )
    if args.workers == "ray":
        connect()
    roots = find_sets(args.root)
    reports: dict[str, IndexReport] = {}
    with Progress(transient=True) as bar:
        for name, url in roots.items():
            task = bar.add_task(name, total=None)
            reports[name] = index_shards(
                absolute(url),
                settings,
                progress=lambda done, total, task=task: bar.update(task, completed=done, total=total),
            )
    for name, report in reports.items():
        Console().print(census_table(name, report))
    summary: dict = {}
    for name, report in reports.items():
        summary |= _lines(name, report)
    summary["sets"] = {name: _plain_values(report) for name, report in reports.items()}
    over_budget = any(is_over_budget(report, budget) for report in reports.values())
    return Report(
        title="Manifest" if not over_budget else f"Manifest: over the budget of {args.max_rejected} rejected samples",
        summary=summary,
        next_command=_next_command(roots, reports),
        exit_code=OVER_BUDGET if over_budget else 0,
    )


def find_sets(root: str) -> dict[str, str]:
    """Name and URL of each shard set under ``root``."""
    folders = {shard.rpartition("/")[0].split("/")[0] for shard in find_shards(root)}
    if not folders:
        raise ValueError(f"got no .tar under {root}; write shards by: python -m jobs.write_shards --out {root}")
    if "" in folders:
        return {root: root}
    return {folder: storage.join(root, folder) for folder in sorted(folders)}


def is_over_budget(report: IndexReport, budget: float) -> bool:
    num_unusable = report.num_rejected + report.census.unreadable.total()
    return num_unusable > budget * report.num_samples or (budget < 1 and bool(report.bad_shards))


def _plain_values(report: IndexReport) -> dict:
    return report.as_dict() | {"num_rejected": report.num_rejected}


def _next_command(roots: dict[str, str], reports: dict[str, IndexReport]) -> str:
    """Look at the first shard that is damaged; without one, train."""
    for name, report in reports.items():
        for bad in report.bad_shards:
            return f"python -m jobs.inspect_shard {shlex.quote(storage.join(roots[name], bad.shard))}"
    return f"python -m jobs.train --help    # manifests: {' '.join(roots.values())}"


def _lines(name: str, report: IndexReport) -> dict[str, str]:
    """A set as lines of the summary."""
    lines = {
        name: f"{report.num_ok} of {report.num_samples} samples sound, {report.num_captioned} with captions, "
        f"{report.num_shards} shards ({report.num_read} read now), digest {report.digest[:16]}"
    }
    lines |= {f"{name}: {bad.shard}": f"{bad.code}: {bad.detail}" for bad in report.bad_shards[:20]}
    if len(report.bad_shards) > 20:
        lines[f"{name}: more bad shards"] = str(len(report.bad_shards) - 20)
    return lines


def cli() -> None:
    launch(Args, main, example="python -m jobs.index_shards runs/world/shards")


if __name__ == "__main__":
    cli()
