"""Where the result of an evaluation goes: the terminal, files, MLflow."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cluster.tracking import NO_TRACKING, Tracker, TrackerSpec, open_tracker
from fpig_core.bundle import Bundle
from fpig_core.evaluation import FIRST_STAGE, MAIN, Evaluation
from fpig_core.metrics import DIRECTIONS
from jobs.cli import write_json
from jobs.evaluation_report import render_report
from jobs.report_pictures import Search, choose_examples, draw_examples
from jobs.results import FOLDER, RANKS_NAME, RESULT_NAME, digest_of, ranks_beside, ranks_file
from jobs.text import plain
from jobs.tracking import spool_folder
from pipelines.corpus import Corpus
from pipelines.manifest import Manifest

NO_REPORT = "none"
REPORT_NAME = "report.html"
TITLES = {"t2v": "text to video", "v2t": "video to text"}


def write_outputs(
    judged: Evaluation,
    *,
    json_path: str,
    report_path: str,
    tracking: str,
    run_key: str,
    num_examples: int,
    sources: tuple[Search, Bundle, Corpus, Manifest],
) -> None:
    """Ranks and report beside ``json_path``, and all of it to MLflow; the JSON itself is left to the command line.

    The result learns of it: ``ranks_digest``, ``report``, ``mlflow_run_id``.
    """
    result, ranks = judged.result, ranks_file(judged)
    result["ranks_digest"] = digest_of(ranks)
    report_path = report_path or (str(Path(json_path).with_suffix(".html")) if json_path else NO_REPORT)
    wants_report = report_path != NO_REPORT or tracking != NO_TRACKING
    if json_path:
        _write(ranks_beside(Path(json_path)), ranks)
    spec = TrackerSpec(uri=tracking, run_name=f"evaluate-{result['split']}", spool_dir=str(spool_folder(run_key)))
    with open_tracker(spec) as tracker:
        result["mlflow_run_id"] = tracker.run_id
        page = _report(judged, num_examples=num_examples, sources=sources) if wants_report else b""
        if report_path != NO_REPORT:
            _write(Path(report_path), page)
            result["report"] = report_path
        if tracking != NO_TRACKING:
            log_result(tracker, result)
            with tempfile.TemporaryDirectory(prefix="fpig-evaluation-") as folder:
                write_json(str(Path(folder) / RESULT_NAME), result)
                (Path(folder) / RANKS_NAME).write_bytes(ranks)
                (Path(folder) / REPORT_NAME).write_bytes(page)
                for path in sorted(Path(folder).iterdir()):
                    tracker.log_artifact(path, folder=FOLDER)


def _report(judged: Evaluation, *, num_examples: int, sources: tuple[Search, Bundle, Corpus, Manifest]) -> bytes:
    search, bundle, corpus, manifest = sources
    best, worst = (
        draw_examples(judged, chosen, search=search, bundle=bundle, corpus=corpus, manifest=manifest)
        for chosen in choose_examples(judged, number=num_examples)
    )
    return render_report(judged, best=best, worst=worst).encode()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def log_result(tracker: Tracker, result: Mapping[str, Any]) -> None:
    """Metrics as points, facts as tags; a rerun adds no second points."""
    tracker.set_tags({name: value for name, value in result.items() if isinstance(value, str) or value is None})
    values = {
        f"{_prefix(ranking)}{direction}/{name.replace('@', '')}": value
        for ranking, metrics in each_ranking(result)
        for direction in DIRECTIONS
        for name, value in metrics[direction].items()
    }
    plain_values = {name: value for name, value in result.items() if isinstance(value, (int, float))}
    if tracker.last_step("num_queries") < 0:
        tracker.log_metrics(values | plain_values, step=0)


def _prefix(ranking: str) -> str:
    return "" if ranking == MAIN else f"{ranking.partition('(')[0]}/"


def each_ranking(result: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Name and metrics of each ranking: the result itself, its first stage, those under normalisers."""
    further = {FIRST_STAGE: result[FIRST_STAGE]} if FIRST_STAGE in result else {}
    return [(MAIN, result), *further.items(), *result.get("normalised", {}).items()]


def show_metrics(result: Mapping[str, Any]) -> None:
    """The table on the terminal, and the warnings below it."""
    table = Table(title="R@K and SumR in percent, higher is better; MdR and MnR are ranks, lower is better")
    table.add_column("direction", overflow="fold")
    for name in result["t2v"]:
        table.add_column(name, justify="right")
    for ranking, metrics in each_ranking(result):
        note = {MAIN: "", FIRST_STAGE: ", first stage alone"}.get(ranking, f", {ranking}")
        for direction in DIRECTIONS:
            low, high = result["intervals"][ranking][direction]["R@1"]
            first, *others = (f"{value:.1f}" for value in metrics[direction].values())
            table.add_row(TITLES[direction] + note, f"{first} ({low:.1f}–{high:.1f})", *others)
    console = Console()
    console.print(table)
    for warning in result["warnings"]:
        console.print(plain(f"Note: {warning}"))
