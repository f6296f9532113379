"""Command line shared by all jobs: parse, run, report, exit code.

Every job module holds a frozen dataclass ``Args`` (with a field ``json: str = ""``), a function
``main(args) -> Report``, and ``def cli(): launch(Args, main, example="python -m jobs.NAME …")``, called under
``if __name__ == "__main__"``. ``fpig NAME …`` runs the same module.
"""

import contextlib
import dataclasses
import importlib
import io
import json
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import tyro
from rich.console import Console
from rich.table import Table

from jobs.text import plain

DONE, FAILED, WRONG_USE, OVER_BUDGET = 0, 1, 2, 3
STOPPED = 128 + signal.SIGTERM
"""What a job leaves that was told to stop and goes on when it is started again."""

JOBS = {
    "make_synthetic": "make a small world of captioned H.264 videos",
    "write_shards": "pack a folder of videos and a table of captions into WebDataset shards",
    "index_shards": "write the manifest of a shard set and report what is wrong with it",
    "cache_frames": "decode the videos of a manifest once, for training that visits them often",
    "inspect_shard": "show the samples of one shard, what is wrong with them and what to do",
    "pretrain_clip": "train the small CLIP that the demo starts from",
    "recipes": "list the named experiments, with the origin of every hyper-parameter",
    "train": "train a retrieval model on a Ray cluster",
    "export": "turn a checkpoint of a training into a model bundle",
    "embed_corpus": "embed every video of a manifest, exactly once",
    "verify_corpus": "prove from storage that a corpus is complete and sound",
    "export_corpus": "write a corpus in the layout of clip-retrieval or Lance",
    "build_index": "index a corpus for searches that need not read every vector",
    "evaluate": "score a corpus under the evaluation protocol",
    "check_drift": "hold a new model against the one in use before it takes its alias",
    "compare": "compare evaluations query by query, effectiveness against cost",
    "search": "search a corpus by text, or for videos like one of its own",
    "serve": "answer searches over HTTP, with a page to search and watch",
    "draw_tokens": "draw which visual tokens the model kept",
    "doctor": "check the installation, the devices and the services",
    "demo": "run the whole path on synthetic videos",
}

ArgsT = TypeVar("ArgsT")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What a job tells at its end: ``summary`` is shown as a table and is the content of ``--json FILE``."""

    title: str
    summary: Mapping[str, Any]
    next_command: str = ""
    exit_code: int = DONE


def parse(args_type: Any, argv: list[str], *, prog: str, example: str, default: Any = None) -> Any:
    """Parse ``argv`` into ``args_type``.

    Raises:
        ValueError: a wrong argument; the message is one line.
    """
    description = f"{(args_type.__doc__ or '').strip()}\n\nExample: {example}"
    options = {} if default is None else {"default": default}
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            # A model's settings stay plain options, though there are several kinds of models.
            locked = (tyro.conf.AvoidSubcommands,)
            return tyro.cli(args_type, prog=prog, description=description, args=argv, config=locked, **options)
    except SystemExit as exit_:
        if exit_.code in (0, None):
            raise
        raise ValueError(f"{_first_sentence(errors.getvalue())} (see {prog} --help)") from None


def _first_sentence(boxed: str) -> str:
    """The message inside tyro's box, up to its first rule, on one line."""
    lines = []
    for line in boxed.splitlines()[1:]:
        text = line.strip("│ ").strip()
        if not set(text) <= set("─╰╯-"):
            lines.append(text)
        elif lines:
            break
    return " ".join(lines) or boxed.strip()


def launch(args_type: type[ArgsT], job: Callable[[ArgsT], Report], *, example: str) -> None:
    """Parse the command line, run ``job`` and leave the process with its exit code."""
    name = example.split()[2].removeprefix("jobs.")
    prog = f"python -m jobs.{name}"
    execute(name, lambda argv: parse(args_type, argv, prog=prog, example=example), job)


def execute(name: str, read_args: Callable[[list[str]], Any], job: Callable[[Any], Report]) -> None:
    """Run one job: a plain ``ValueError`` is a wrong request (one line, exit code 2), all else is a failure.

    Subclasses of ``ValueError`` come from libraries that met damaged data, not from us.
    """
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", datefmt="%H:%M:%S"
    )
    errors, start = Console(stderr=True), time.monotonic()
    try:
        args = read_args(sys.argv[1:])
        report = job(args)
    except ValueError as error:
        if type(error) is not ValueError:
            raise
        errors.print(f"fpig {name}: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(WRONG_USE)
    except KeyboardInterrupt:
        errors.print(f"fpig {name}: interrupted", style="red")
        sys.exit(FAILED)
    if args.json:
        write_json(args.json, report.summary)
    show(report, seconds=time.monotonic() - start)
    sys.exit(report.exit_code)


@contextlib.contextmanager
def stop_signals(told: str = "stopping after a checkpoint; again to stop at once") -> Iterator[Callable[[], bool]]:
    """Whether somebody wants the process to stop, by SIGTERM or an interrupt; a second signal ends it as usual.

    ``told``: what the log says at the first one.
    """
    wanted = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def note(number: int, _: FrameType | None) -> None:
        wanted.set()
        logging.getLogger(__name__).warning(told)
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, note)
    try:
        yield wanted.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def show(report: Report, *, seconds: float) -> None:
    """Print the report's plain values, those that there are, as a two-column table, then the next useful command."""
    table = Table(show_header=False)
    for key, value in report.summary.items():
        if value is not None and not isinstance(value, (dict, list)):
            table.add_row(plain(key), plain(f"{value:.4g}" if isinstance(value, float) else str(value)))
    table.add_row("seconds", f"{seconds:.1f}")
    console = Console()
    console.print(report.title, style="bold", soft_wrap=True, highlight=False, markup=False)
    console.print(table)
    if report.next_command:
        console.print(f"Next: {report.next_command}", soft_wrap=True, highlight=False, markup=False)


def write_json(path: str, value: Mapping[str, Any]) -> None:
    """Write a machine-readable result to ``path``, replacing it in one step."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_suffix(".tmp")
    draft.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
    draft.replace(target)


def main() -> None:
    """Entry point of ``fpig NAME …``."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        width = max(map(len, JOBS))
        print("usage: fpig JOB [options]     (fpig JOB --help for each)\n")
        print("\n".join(f"  {job:<{width}}  {text}" for job, text in JOBS.items()))
        sys.exit(DONE)
    if name not in JOBS:
        print(f"fpig: got job {name!r}, wanted one of {', '.join(JOBS)}", file=sys.stderr)
        sys.exit(WRONG_USE)
    del sys.argv[1]
    importlib.import_module(f"jobs.{name}").cli()
