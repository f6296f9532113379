"""``train``: one recipe, trained on a Ray cluster to a model bundle."""

import argparse
import dataclasses
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Annotated

import ray
import tyro
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cluster.checkpoints import Checkpoint
from cluster.estimate import flops_per_sample
from cluster.placement import Placement
from cluster.reports import GroupReport
from cluster.session import connect
from cluster.task import Monitor, TrainTask
from cluster.tracking import Tracker
from cluster.training import StoppedError, run_training
from fpig_core.backbone import locate
from fpig_core.models import Model, check_config
from fpig_core.schedule import Phase
from jobs.budget import parse_fraction
from jobs.cli import DONE, OVER_BUDGET, STOPPED, Report, execute, parse, stop_signals
from jobs.experiment import Experiment
from jobs.forecast import forecast, without_plan
from jobs.publish import is_published, publish, publish_rest, read_origin
from jobs.recipes import RECIPES, Recipe
from jobs.revision import code_revision
from jobs.run_reports import RunReports
from jobs.run_setup import claim_run, make_plan, settle_start
from jobs.tracking import output_run
from pipelines import storage
from pipelines.frame_cache import require_fitting
from pipelines.manifest import Manifest, load_manifest
from pipelines.places import absolute
from pipelines.segments import Share
from pipelines.stream import StreamSource, share_stream

EXAMPLE = "python -m jobs.train msrvtt-fpig-b32 --optim.lr 3e-6 --placement.num-workers 8"
SHOWN = ("loss", "val_t2v_r1", "samples_per_s")
"""Metrics beside the progress bar."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Train a recipe. The run keeps everything under STORAGE/NAME; the same command again goes on where it stopped."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    placement: Placement
    monitor: Monitor
    name: str
    """Name of the run."""
    max_rejected: str = "1%"
    """Error budget: with a larger part of the videos rejected, the job ends with exit code 3."""
    tracking: str = "sqlite:///runs/mlflow.db"
    """MLflow tracking URI, or none."""
    register_as: str = ""
    """Also register the model in MLflow under this name, NAME or NAME@ALIAS."""
    profile: bool = False
    """Trace a few steps of every worker to RUN/profile, for Perfetto."""
    json: str = ""
    """Write the result to this file."""
    plan: str = ""
    """Only tell what the run would need on such devices: H100, H200, A100-80GB, …, or cpu."""
    plan_share: str = "30%"
    """Part of a device's peak that the plan's hours count on."""
    words: tyro.conf.Suppress[tyro.conf.Fixed[tuple[str, ...]]] = ()
    """The command line, without what concerns the plan."""


def read_args(argv: list[str]) -> Args:
    """The recipe's name comes first, then what differs from it."""
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: python -m jobs.train RECIPE [--method METHOD] [options]\n\nRecipes:\n{listing()}")
        print(f"\nExample: {EXAMPLE}\n\nOptions of a recipe: python -m jobs.train RECIPE --help")
        sys.exit(0)
    name, *rest = argv
    if name not in RECIPES:
        raise ValueError(f"got recipe {name!r}, wanted one of {', '.join(RECIPES)}")
    recipe, words = RECIPES[name], tuple(without_plan(argv))
    method, rest = take_method(recipe, rest)
    default = Args(
        experiment=recipe.methods[method](),
        placement=recipe.placement(),
        monitor=recipe.monitor(),
        name=recipe.run_name_of(method),
        words=words,
    )
    return parse(Args, rest, prog=f"python -m jobs.train {name} --method {method}", example=EXAMPLE, default=default)


def listing() -> str:
    """Recipes and their methods, a line each."""
    width = max(map(len, RECIPES))
    return "\n".join(
        f"  {name:<{width}} {recipe.about} [{', '.join(recipe.methods)}]" for name, recipe in RECIPES.items()
    )


def take_method(recipe: Recipe, options: list[str]) -> tuple[str, list[str]]:
    """The method that the options ask for, the recipe's first by default, and the other options.

    Raises:
        ValueError: the recipe has no such method.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--method", default=next(iter(recipe.methods)))
    known, rest = parser.parse_known_args(options)
    if known.method not in recipe.methods:
        raise ValueError(f"got --method {known.method!r}, wanted one of {', '.join(recipe.methods)}")
    return known.method, rest


def main(args: Args) -> Report:
    model, start_id = settle_start(args.experiment)
    empty = check_config(model)
    parse_fraction(args.max_rejected)
    if args.plan:
        return tell_plan(args, empty)
    manifests = load_manifests(args.experiment)
    for manifest in manifests.values():
        require_fitting(manifest, model.preprocess)
    plan = make_plan(args.experiment, manifests)
    task = TrainTask(
        model=dataclasses.replace(model, backbone=locate(model.backbone)),
        optim=args.experiment.optim,
        schedule=plan.schedule,
        seed=args.experiment.seed,
        placement=args.placement,
        monitor=args.monitor,
        run_url=storage.join(absolute(args.placement.storage), args.name),
        start_url=absolute(args.experiment.start) if start_id else "",
        flops_per_sample=flops_per_sample(empty, args.placement),
        profile=args.profile,
    )
    claim_run(task.run_url, args.experiment, manifests, start_id=start_id)
    if is_published(task):
        print(f"{task.run_url} is finished; nothing to do")
        publish_rest(task, tracking=args.tracking, name=args.name, register_as=args.register_as)
        return summarise(args, task)
    newest = task.checkpoints.newest_complete()
    announce_start(task, newest)
    connect(dashboard=True)
    source = StreamSource(plan=plan, preprocess=model.preprocess, manifests=manifests)
    with stop_signals() as should_stop, output_run(task.run_url, tracking=args.tracking, name=args.name) as tracker:
        tracker.set_tags({"code_revision": code_revision(), "ray_job_id": ray.get_runtime_context().get_job_id()})
        tracker.log_params(dataclasses.asdict(args.experiment) | {"placement": dataclasses.asdict(args.placement)})
        for phase, manifest in manifests.items():
            tracker.log_input(phase, source=manifest.root, digest=manifest.digest)
        try:
            done = task.schedule.steps_before(newest.batch) if newest else 0
            train(task, source, tracker, done=done, should_stop=should_stop)
        except StoppedError:
            tracker.finish("KILLED")
            return summarise_stop(args, task)
        selected = {"select_on": args.experiment.data.select_on, "val_digest": manifests["val"].digest}
        publish(task, tracker, selected=selected, register_as=args.register_as)
    return summarise(args, task)


def load_manifests(experiment: Experiment) -> dict[Phase, Manifest]:
    """The manifests of both phases.

    Raises:
        ValueError: one is not there.
    """
    data = experiment.data
    return {"train": load_manifest(absolute(data.train)), "val": load_manifest(absolute(data.val))}


def tell_plan(args: Args, model: Model) -> Report:
    """What the run would need. Shard sets that are not there yet leave its length open."""
    schedule, why = None, ""
    try:
        schedule = make_plan(args.experiment, load_manifests(args.experiment)).schedule
    except ValueError as error:
        why = str(error)
    return forecast(
        args.experiment,
        args.placement,
        name=args.name,
        tracking=args.tracking,
        model=model,
        schedule=schedule or why,
        device=args.plan,
        share=args.plan_share,
        words=args.words,
    )


def summarise(args: Args, task: TrainTask) -> Report:
    """The report of a finished run, from what it left on storage."""
    origin = read_origin(task)
    summary = {
        "model": storage.join(args.placement.storage, args.name, "model"),
        "model_id": origin["model_id"],
        "num_steps": task.schedule.num_steps,
        "num_samples": task.schedule.num_train + task.schedule.num_val,
        "num_rejected": origin["num_rejected"],
        "val_t2v_r1": origin["validation"]["t2v_r1"],
        "best_epoch": task.schedule.place(origin["batch"]).epoch,
        "mlflow_run_id": origin["mlflow_run_id"],
    }
    next_command = f"python -m jobs.embed_corpus --model {summary['model']} --manifest SHARDS --out CORPUS"
    over_budget = summary["num_rejected"] > parse_fraction(args.max_rejected) * summary["num_samples"]
    return Report(
        title=f"Trained {args.name}",
        summary=summary,
        next_command=next_command,
        exit_code=OVER_BUDGET if over_budget else DONE,
    )


def summarise_stop(args: Args, task: TrainTask) -> Report:
    """The report of a run that was asked to stop."""
    newest = task.checkpoints.newest_complete()
    step = task.schedule.steps_before(newest.batch) if newest else 0
    return Report(
        title=f"Stopped {args.name}; the same command goes on",
        summary={"run": task.run_url, "step": step, "num_steps": task.schedule.num_steps},
        exit_code=STOPPED,
    )


def announce_start(task: TrainTask, newest: Checkpoint | None) -> None:
    if newest:
        place = task.schedule.place(newest.batch)
        step = task.schedule.steps_before(newest.batch)
        print(f"Resuming {task.run_url} from its newest complete checkpoint: epoch {place.epoch}, step {step}")
    else:
        print(f"Starting {task.run_url}: {task.schedule.num_steps} steps, {task.schedule.epochs} epochs")


def train(
    task: TrainTask, source: StreamSource, tracker: Tracker, *, done: int, should_stop: Callable[[], bool]
) -> None:
    """Train from the ``done``-th step to the end."""
    reports = RunReports(task, tracker, source.manifests["val"])
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), refresh_per_second=2) as progress:
        bar = progress.add_task("steps", total=task.schedule.num_steps, completed=done, note="starting workers")
        notes: dict[str, float] = {}

        def on_report(report: GroupReport) -> None:
            notes.update((name, report.metrics[name]) for name in SHOWN if name in report.metrics)
            note = "  ".join(f"{name} {value:.3g}" for name, value in notes.items())
            progress.update(bar, completed=report.step, note=note)
            reports.take(report)

        def stream(batch: int, num_workers: int) -> AbstractContextManager[list[Share]]:
            return share_stream(dataclasses.replace(source, num_workers=num_workers), first_batch=batch)

        run_training(task, stream, on_report=on_report, should_stop=should_stop)


def cli() -> None:
    execute("train", read_args, main)


if __name__ == "__main__":
    cli()
