"""``check_drift``: hold a new model against the one in use before it takes its place."""

import dataclasses
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from cluster.logged_models import move_alias
from fpig_core.bundle import bundle_id
from fpig_core.drift import Canary, Check, DriftLimits, compare_canaries
from fpig_core.ranks import targets_by_id
from fpig_core.retrieval import encode_queries
from jobs import embed_corpus
from jobs.cli import DONE, FAILED, Report, launch
from jobs.models import load_model_of, model_folder
from jobs.query_sets import choose_queries
from jobs.text import plain
from jobs.tracking import output_run
from pipelines import storage
from pipelines.corpus import Corpus, read_corpus
from pipelines.embed import EmbedSettings
from pipelines.manifest import load_manifest

EXAMPLE = (
    "python -m jobs.check_drift --candidate models:/fpig/7 --register-as fpig@production "
    "--manifest runs/demo/shards/val --out runs/canary"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Embed a small captioned set with both models and compare lengths, who is found, and R@K.

    Beyond a limit the job ends with exit code 1 and the alias stays where it is.
    """

    candidate: str
    """The new model: bundle, URL, or MLflow URI (runs:/…, models:/…)."""
    manifest: str
    """Manifest of the canary set: some hundreds of videos with captions, the same ones each time."""
    out: str
    """Folder or URL for the corpora of the canary set, one for each model; what is there is not embedded again."""
    current: str = ""
    """The model in use; by default the one that the alias of --register-as points to."""
    register_as: str = ""
    """NAME@ALIAS of a registered model: the alias that moves to the candidate if nothing is beyond its limit."""
    limits: Annotated[DriftLimits, tyro.conf.arg(name="")] = DriftLimits()
    settings: Annotated[EmbedSettings, tyro.conf.arg(name="embed")] = EmbedSettings(rerank_columns=False)
    tracking: str = "sqlite:///runs/mlflow.db"
    """MLflow tracking URI, or none."""
    json: str = ""
    """Write the result to this file."""

    def __post_init__(self) -> None:
        name, at, alias = self.register_as.partition("@")
        if self.register_as and not (name and at and alias):
            raise ValueError(f"got --register-as {self.register_as}, wanted NAME@ALIAS, such as fpig@production")
        if not self.current and not self.register_as:
            raise ValueError("got neither --current nor --register-as; say which model is in use")


def main(args: Args) -> Report:
    current, candidate = (
        embed_canary(args, model) for model in (args.current or f"models:/{args.register_as}", args.candidate)
    )
    checks = compare(args, current, candidate)
    beyond = [check for check in checks if not check.ok]
    show_checks(checks)
    moved = "no"
    if args.register_as and not beyond:
        moved = move(args)
    summary = {
        "current_model_id": current.meta["model_id"],
        "candidate_model_id": candidate.meta["model_id"],
        "manifest_digest": current.meta["manifest_digest"],
        "num_beyond": len(beyond),
        "beyond": [check.name for check in beyond],
        "passed": not beyond,
        "alias": args.register_as or None,
        "moved": moved,
        "checks": [dataclasses.asdict(check) for check in checks],
    }
    verdict = f"{len(beyond)} of {len(checks)} checks beyond their limit" if beyond else "within all limits"
    failed = beyond or (args.register_as and moved == "no")
    remedy = f"python -m jobs.evaluate --corpus {storage.join(args.out, candidate.meta['model_id'])}"
    return Report(
        title=f"Candidate {args.candidate}: {verdict}",
        summary=summary,
        next_command=remedy,
        exit_code=FAILED if failed else DONE,
    )


def embed_canary(args: Args, model: str) -> Corpus:
    """The corpus of the canary set under a model, made if it is not there."""
    with model_folder(model, tracking=args.tracking) as folder:
        out = storage.join(args.out, bundle_id(folder))
    embed_corpus.main(
        embed_corpus.Args(
            model=model,
            manifest=args.manifest,
            out=out,
            max_rejected="100%",
            settings=args.settings,
            tracking=args.tracking,
        )
    )
    return read_corpus(out)


def compare(args: Args, current: Corpus, candidate: Corpus) -> list[Check]:
    """Checks over the videos that both models embedded, with one caption of each as query."""
    both = set(current.uids) & set(candidate.uids)
    uids = [uid for uid in current.uids if uid in both]
    queries = choose_queries(uids, load_manifest(args.manifest), queries="first")
    sides = []
    for corpus in (current, candidate):
        place = {uid: i for i, uid in enumerate(corpus.uids)}
        bundle, _ = load_model_of(corpus.meta, tracking=args.tracking)
        sides.append(
            Canary(
                query_QD=encode_queries(bundle, queries.texts),
                video_BD=corpus.vectors[[place[uid] for uid in uids]],
                rejected_share=corpus.meta["num_rejected"] / corpus.meta["num_samples"],
            )
        )
    target_Q = np.asarray(targets_by_id(queries.video_ids, uids))
    return compare_canaries(sides[0], sides[1], target_Q, limits=args.limits)


def move(args: Args) -> str:
    """Let the alias point to the candidate, registering it first if need be -> the version, or "no"."""
    name, _, alias = args.register_as.partition("@")
    if args.candidate.startswith(f"models:/{name}/"):
        version = args.candidate.removeprefix(f"models:/{name}/")
        move_alias(f"{name}@{alias}", version=version, tracking_uri=args.tracking)
        return f"to version {version}"
    with (
        model_folder(args.candidate, tracking=args.tracking) as folder,
        output_run(storage.join(args.out, bundle_id(folder)), tracking=args.tracking, name="check-drift") as tracker,
    ):
        return "to a new version" if tracker.log_model(folder, register_as=args.register_as) else "no"


def show_checks(checks: list[Check]) -> None:
    table = Table(title="Candidate against current model", title_justify="left")
    table.add_column("check")
    for name in ("current", "candidate", "change"):
        table.add_column(name, justify="right")
    for name in ("limit", ""):
        table.add_column(name)
    for check in checks:
        numbers = [f"{value:.4g}" for value in (check.current, check.candidate, check.change)]
        table.add_row(plain(check.name), *numbers, check.limit, "ok" if check.ok else "BEYOND")
    Console().print(table)


def cli() -> None:
    launch(Args, main, example=EXAMPLE)


if __name__ == "__main__":
    cli()
