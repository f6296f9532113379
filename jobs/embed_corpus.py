"""``embed_corpus``: every video of a manifest becomes one vector or one rejection, exactly once."""

import dataclasses
import time
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cluster.logged_models import run_of_model
from cluster.session import connect, require_resources
from cluster.tracking import Tracker
from jobs.budget import parse_fraction
from jobs.cli import DONE, OVER_BUDGET, Report, launch
from jobs.models import MLFLOW_SCHEMES, model_folder, read_origin
from jobs.revision import code_revision
from jobs.tracking import output_run
from pipelines import storage
from pipelines.commit import remove_manifests
from pipelines.embed import EmbedPlan, EmbedSettings, committed, embed_parts, finish_embedding, plan_embedding
from pipelines.manifest import load_manifest
from pipelines.part_files import Tally, remove_parts
from pipelines.places import absolute

LOG_EVERY_S = 2.0
"""Seconds between points in MLflow: a large corpus has many parts."""
MUCH_PADDING = 0.2
EXAMPLE = (
    "python -m jobs.embed_corpus --model runs/demo/train/model --manifest runs/demo/shards/test --out runs/demo/corpus"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Embed every video of a manifest. The same command again does what is missing, and nothing else.

    A manifest that grew adds to the corpus; the old one can be read until the new one is complete.
    """

    model: str
    """Model bundle: folder, URL, or MLflow URI (runs:/…, models:/…)."""
    manifest: str
    """manifest.parquet, or the folder of shards that holds it."""
    out: str
    """Folder or URL of the corpus."""
    max_rejected: str = "1%"
    """Error budget: with a larger part of the videos rejected, the job ends with exit code 3."""
    settings: Annotated[EmbedSettings, tyro.conf.arg(name="")] = EmbedSettings()
    wait_for_nodes_s: float = 0.0
    """How long an autoscaling cluster may take to start the nodes that are needed."""
    tracking: str = "sqlite:///runs/mlflow.db"
    """MLflow tracking URI, or none."""
    json: str = ""
    """Write the result to this file."""


def main(args: Args) -> Report:
    settings, budget = args.settings, parse_fraction(args.max_rejected)
    manifest = load_manifest(args.manifest)
    with model_folder(args.model, tracking=args.tracking) as folder:
        origin = read_origin(folder)
        if args.model.startswith(MLFLOW_SCHEMES) and (run_id := run_of_model(folder)):
            origin["mlflow_run_id"] = run_id
        plan = plan_embedding(manifest, model_url=str(folder), out_url=args.out, settings=settings)
        plan = dataclasses.replace(plan, model_url=place_model(args.model, folder, plan))
    if meta := committed(plan):
        drop_stale(plan, settings)
        return report(args, meta, budget=budget, fresh=0, seconds=0.0)
    announce(plan, settings)
    if plan.missing:
        connect()
        require_resources(settings.bundles, purpose="embedding", wait_s=args.wait_for_nodes_s)
    name = f"embed-{Path(plan.manifest.root).name}"
    with output_run(plan.out_url, tracking=args.tracking, name=name) as tracker:
        written = dataclasses.replace(plan.written, code_revision=code_revision(), mlflow_run_id=tracker.run_id)
        plan = dataclasses.replace(plan, written=written)
        tracker.log_params(dataclasses.asdict(settings) | plan.spec.identity() | {"out": plan.out_url})
        links = {"model_id": plan.spec.model_id, "model_uri": args.model, "corpus": plan.out_url}
        links["model_run_id"] = origin.get("mlflow_run_id", "unknown")
        tracker.set_tags(links | {"code_revision": written.code_revision})
        tracker.log_input("corpus", source=plan.manifest.root, digest=manifest.digest)
        started = time.monotonic()
        counts = embed_with_progress(plan, settings, tracker)
        seconds = time.monotonic() - started
        lineage = {
            "model_run_id": origin.get("mlflow_run_id", "unknown"),
            "model_uri": args.model,
            "speed": {
                "num_videos": plan.num_missing,
                "seconds": round(seconds, 3),
                "num_actors": settings.num_actors,
                "gpus_per_actor": settings.gpus_per_actor,
            },
        }
        # If MLflow was away at the start, the run has its id only now.
        written = dataclasses.replace(written, mlflow_run_id=tracker.run_id)
        meta = finish_embedding(dataclasses.replace(plan, written=written), counts, lineage=lineage)
        drop_stale(plan, settings)
        log_result(tracker, meta, fresh=plan.num_missing, seconds=seconds)
    return report(args, meta, budget=budget, fresh=plan.num_missing, seconds=seconds)


def announce(plan: EmbedPlan, settings: EmbedSettings) -> None:
    """Say what there is to do, and if much of the model's work will be wasted."""
    done = plan.manifest.num_rows - plan.num_missing
    print(f"{plan.num_missing} videos to embed in {len(plan.missing)} parts; {done} are done already")
    if (padding := plan.padding(settings.batch_size)) > MUCH_PADDING:
        rows = plan.num_missing / len(plan.missing)
        print(
            f"{padding:.0%} of the model's work will be on empty places: a batch of {settings.batch_size} holds videos "
            f"of one part, and parts have {rows:.0f} here, for shards are small; use a smaller --batch-size"
        )


def drop_stale(plan: EmbedPlan, settings: EmbedSettings) -> None:
    """Delete the files that the corpus left out, if that is wanted."""
    if settings.stale == "delete":
        remove_parts(plan.out_url, keep=plan.parts.names)
        remove_manifests(plan.out_url, keep=plan.manifest.digest)


def place_model(model: str, folder: Path, plan: EmbedPlan) -> str:
    """URL of the model that every worker can read, and that the corpus remembers."""
    if not model.startswith(MLFLOW_SCHEMES):
        return absolute(model)
    # MLflow's download lies on this machine alone: it travels to the workers beside the corpus.
    url = storage.join(plan.out_url, "model")
    for path in sorted(folder.iterdir()):
        target = storage.join(url, path.name)
        there = storage.stamp(target)
        if there is None or there[0] != path.stat().st_size:
            storage.upload(path, target)
    return url


def embed_with_progress(plan: EmbedPlan, settings: EmbedSettings, tracker: Tracker) -> Tally:
    """Embed what is missing; the bar counts the videos of the whole manifest."""
    total, counts = plan.manifest.num_rows, Tally(plan.parts)
    done, started = total - plan.num_missing, time.monotonic()
    logged, next_s = tracker.last_step("num_done"), 0.0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), refresh_per_second=2) as bar:
        task = bar.add_task("videos", total=total, completed=done, note="starting workers" if plan.missing else "")
        for count in embed_parts(plan, settings):
            counts.add(count)
            done += count.num_embedded + count.num_rejected
            rate = (done - total + plan.num_missing) / (time.monotonic() - started)
            bar.update(task, completed=done, note=f"{rate:.3g} videos/s, {counts.rejected.total()} rejected")
            if done > logged and time.monotonic() >= next_s:
                next_s = time.monotonic() + LOG_EVERY_S
                tracker.log_metrics(live_metrics(counts, done=done, total=total, rate=rate), step=done)
    return counts


def live_metrics(counts: Tally, *, done: int, total: int, rate: float) -> dict[str, float]:
    """What MLflow shows while the job runs; what was rejected, of this job's videos."""
    rejected = {f"rejected_now/{reason}": number for reason, number in counts.rejected.items()}
    return {"num_done": done, "videos_per_s": rate, "seconds_left": (total - done) / rate, **rejected}


def log_result(tracker: Tracker, meta: dict[str, Any], *, fresh: int, seconds: float) -> None:
    values = {f"rejected/{reason}": number for reason, number in meta["rejected"].items()}
    values |= {"num_embedded": meta["num_embedded"], "num_rejected": meta["num_rejected"]}
    if seconds and fresh:
        values["videos_per_s_overall"] = fresh / seconds
    tracker.log_metrics(values, step=meta["num_samples"])
    tracker.set_tags({"parts_digest": meta["parts_digest"], "manifest_digest": meta["manifest_digest"]})


def report(args: Args, meta: dict[str, Any], *, budget: float, fresh: int, seconds: float) -> Report:
    over = meta["num_rejected"] > budget * meta["num_samples"]
    kept = ("num_samples", "num_embedded", "num_rejected", "rejected", "model_id", "manifest_digest", "mlflow_run_id")
    summary: dict[str, Any] = {"corpus": args.out} | {name: meta[name] for name in kept}
    summary["embedded_now"] = fresh
    if fresh:
        summary["videos_per_s"] = fresh / seconds
    else:
        summary["note"] = "nothing was missing: the corpus is complete"
    for reason, number in meta["rejected"].items():
        summary[f"rejected: {reason}"] = number
    if over:
        summary["budget"] = f"exceeded: {meta['num_rejected'] / meta['num_samples']:.2%} rejected, {budget:.2%} allowed"
    return Report(
        title=f"Corpus {args.out}",
        summary=summary,
        next_command=f'python -m jobs.search --corpus {args.out} --query "…"',
        exit_code=OVER_BUDGET if over else DONE,
    )


def cli() -> None:
    launch(Args, main, example=EXAMPLE)


if __name__ == "__main__":
    cli()
