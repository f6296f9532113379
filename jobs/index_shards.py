"""Write the manifest of a shard set and report what is wrong with it."""

import dataclasses

import tyro
from rich.progress import Progress

from jobs.budget import parse_fraction
from jobs.cli import OVER_BUDGET, Report, launch
from pipelines import storage
from pipelines.indexing import IndexReport, find_shards, index_shards


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Index ROOT if it holds tars, else each of its sub-folders that does: every set gets its own manifest.parquet.

    Exit code 3: more samples are rejected than allowed, or, with an allowance under 100%, a shard is damaged as a
    whole and may have lost samples that cannot be counted.
    """

    root: tyro.conf.Positional[str]
    max_rejected: str = "100%"
    """Largest share of rejected samples, such as 1% or 0.01."""
    threads: int = 4
    """Shards read at the same time."""
    json: str = ""
    """Also write the summary to this file."""


def main(args: Args) -> Report:
    budget = parse_fraction(args.max_rejected)
    roots = find_sets(args.root)
    summary: dict = {}
    over_budget = False
    with Progress(transient=True) as bar:
        for name, url in roots.items():
            task = bar.add_task(name, total=None)
            report = index_shards(
                url,
                num_threads=args.threads,
                progress=lambda done, total, task=task: bar.update(task, completed=done, total=total),
            )
            over_budget |= is_over_budget(report, budget)
            summary |= _lines(name, report)
            summary.setdefault("sets", {})[name] = dataclasses.asdict(report)
    return Report(
        title="Manifest" if not over_budget else f"Manifest: over the budget of {args.max_rejected} rejected samples",
        summary=summary,
        next_command=f"python -m jobs.train --help    # manifests: {' '.join(roots.values())}",
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
    return report.num_rejected > budget * report.num_samples or (budget < 1 and bool(report.bad_shards))


def _lines(name: str, report: IndexReport) -> dict[str, str]:
    """A set as lines of the summary."""
    lines = {
        name: f"{report.num_ok} of {report.num_samples} samples sound, {report.num_captioned} with captions, "
        f"{report.num_shards} shards, digest {report.digest[:16]}"
    }
    lines |= {f"{name}: {code}": str(count) for code, count in report.reasons.items()}
    lines |= {f"{name}: {bad.shard}": f"{bad.code}: {bad.detail}" for bad in report.bad_shards[:20]}
    if len(report.bad_shards) > 20:
        lines[f"{name}: more bad shards"] = str(len(report.bad_shards) - 20)
    return lines


def cli() -> None:
    launch(Args, main, example="python -m jobs.index_shards runs/world/shards")


if __name__ == "__main__":
    cli()
