"""``compare``: several evaluations side by side under one protocol, effectiveness against cost."""

import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from cluster.tracking import NO_TRACKING, Tracker, TrackerSpec, open_tracker
from fpig_core.bootstrap import NUM_RESAMPLES
from fpig_core.evaluation import MAIN
from fpig_core.metrics import DIRECTIONS
from jobs.charts import short
from jobs.cli import Report, launch, write_json
from jobs.comparison import COSTS, compare_results
from jobs.comparison_report import render_comparison, render_markdown
from jobs.results import read_result
from jobs.text import plain
from jobs.tracking import spool_folder

EXAMPLE = "python -m jobs.compare runs/demo/fpig.json runs/demo/eercf.json --html runs/demo/compare.html"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Compare results of python -m jobs.evaluate, each with the first one, query by query.

    Results on other data, other candidate videos or other queries are refused.
    """

    results: tyro.conf.Positional[tuple[str, ...]]
    """JSON files that evaluate wrote (with the ranks beside them), or MLflow runs as runs:/RUN."""
    names: tuple[str, ...] = ()
    """What to call the systems; by default by method and model."""
    ranking: str = MAIN
    """main, first_stage, or the full name of a normaliser, such as "dsl(scale=100, bank=the test itself)"."""
    resamples: int = NUM_RESAMPLES
    """Resamples of the paired bootstrap."""
    html: str = ""
    """Write the comparison as a self-contained page to this file."""
    markdown: str = ""
    """Write the tables as Markdown to this file."""
    tracking: str = NO_TRACKING
    """MLflow tracking URI, or none: where runs:/RUN are read, and the comparison is kept."""
    json: str = ""
    """Write the comparison to this file."""


def main(args: Args) -> Report:
    results = [read_result(source, tracking=args.tracking) for source in args.results]
    compared = compare_results(results, names=args.names, ranking=args.ranking, num_resamples=args.resamples)
    pages = [render_comparison(compared), render_markdown(compared)]
    for path, text in zip((args.html, args.markdown), pages, strict=True):
        if path:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(text, encoding="utf-8")
    models = [result.values["model_id"] for result in results]
    key = hashlib.sha256(json.dumps(["compare", args.results, models, args.ranking]).encode()).hexdigest()[:16]
    spec = TrackerSpec(uri=args.tracking, run_name=f"compare-{compared['split']}", spool_dir=str(spool_folder(key)))
    with open_tracker(spec) as tracker:
        compared["mlflow_run_id"] = tracker.run_id
        if args.tracking != NO_TRACKING:
            _log(tracker, compared, pages=pages)
    _show(compared)
    summary = compared | {"num_systems": len(results), "html": args.html, "markdown": args.markdown}
    return Report(title=f"Comparison of {len(results)} results", summary=summary)


def _log(tracker: Tracker, compared: Mapping[str, Any], *, pages: list[str]) -> None:
    tracker.set_tags({f"system{i}": system["source"] for i, system in enumerate(compared["systems"], start=1)})
    values = {
        f"system{i}/{direction}/{name.replace('@', '')}": value
        for i, system in enumerate(compared["systems"], start=1)
        for direction in DIRECTIONS
        for name, value in system[direction].items()
    }
    if tracker.last_step("num_systems") < 0:
        tracker.log_metrics(values | {"num_systems": len(compared["systems"])}, step=0)
    with tempfile.TemporaryDirectory(prefix="fpig-comparison-") as folder:
        write_json(str(Path(folder) / "compare.json"), compared)
        for name, text in zip(("compare.html", "compare.md"), pages, strict=True):
            (Path(folder) / name).write_text(text, encoding="utf-8")
        for path in sorted(Path(folder).iterdir()):
            tracker.log_artifact(path, folder="comparison")


def _show(compared: Mapping[str, Any]) -> None:
    results, differences = Table(title="R@1 in percent, and costs"), Table(title="R@1: this system less the first")
    for table in (results, differences):
        table.add_column("system", overflow="fold")
    for name in ("t2v", "v2t", "bytes/video", "ms/query", "videos/s"):
        results.add_column(name, justify="right")
    for system in compared["systems"]:
        recall = [f"{system[direction]['R@1']:.1f}" for direction in DIRECTIONS]
        costs = ["–" if system[name] is None else short(system[name]) for name in COSTS]
        results.add_row(plain(system["name"]), *recall, *costs)
    for name in ("t2v (95% interval)", "v2t (95% interval)"):
        differences.add_column(name, justify="right")
    for pair in compared["differences"]:
        told = [pair[direction]["R@1"] for direction in DIRECTIONS]
        cells = [f"{one['difference']:+.1f} ({one['low']:+.1f} to {one['high']:+.1f})" for one in told]
        differences.add_row(plain(pair["system"]), *cells)
    console = Console()
    console.print(results, differences)
    for warning in compared["warnings"]:
        console.print(plain(f"Note: {warning}"))


def cli() -> None:
    launch(Args, main, example=EXAMPLE)


if __name__ == "__main__":
    cli()
