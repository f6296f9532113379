"""``demo``: the whole path on synthetic videos, each stage the command a user would type."""

import dataclasses
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from jobs.cli import FAILED, Report, launch

EXAMPLE = "python -m jobs.demo"
ROOT = "runs/demo"
QUERY = "a large red striped circle moves to the left"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Make videos, pack and index them, train F-Pig, embed, evaluate, search and draw.

    Everything lies under runs/demo. A stage whose result is there is passed over, and a training run that was stopped
    goes on from its newest complete checkpoint; remove runs/demo to start afresh.
    """

    tracking: str = "sqlite:///runs/mlflow.db"
    """MLflow tracking URI, or none."""
    json: str = f"{ROOT}/summary.json"
    """Write the summary to this file."""


class Stage(NamedTuple):
    """One command; ``{tracking}`` is filled in."""

    name: str
    command: str


STAGES = (
    Stage("make_synthetic", f"python -m jobs.make_synthetic --out {ROOT}"),
    Stage(
        "write_shards",
        f"python -m jobs.write_shards --videos {ROOT}/videos --captions {ROOT}/captions.csv --out {ROOT}/shards",
    ),
    Stage("index_shards", f"python -m jobs.index_shards {ROOT}/shards"),
    Stage("pretrain_clip", f"python -m jobs.pretrain_clip --out {ROOT}/clip"),
    Stage("train", "python -m jobs.train demo --tracking {tracking}"),
    Stage(
        "embed_corpus",
        f"python -m jobs.embed_corpus --model {ROOT}/train/model --manifest {ROOT}/shards/test --out {ROOT}/corpus "
        "--tracking {tracking}",
    ),
    Stage(
        "evaluate",
        f"python -m jobs.evaluate --model {ROOT}/train/model --manifest {ROOT}/shards/test --corpus {ROOT}/corpus "
        "--tracking {tracking}",
    ),
    Stage("search", f"python -m jobs.search --corpus {ROOT}/corpus --query '{QUERY}'"),
    Stage(
        "draw_tokens",
        f"python -m jobs.draw_tokens --model {ROOT}/train/model --manifest {ROOT}/shards/test --out {ROOT}/tokens.png",
    ),
)


def main(args: Args) -> Report:
    console = Console()
    results: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    for number, stage in enumerate(STAGES, start=1):
        command = stage.command.format(tracking=args.tracking)
        console.rule(f"{number}/{len(STAGES)} {stage.name}", align="left")
        console.print(f"$ {command}", style="bold", soft_wrap=True, highlight=False)
        result_file = f"{ROOT}/json/{stage.name}.json"
        start = time.monotonic()
        words = shlex.split(command)
        code = subprocess.run([sys.executable, *words[1:], "--json", result_file], check=False).returncode
        seconds[stage.name] = round(time.monotonic() - start, 1)
        if code:
            return Report(
                title=f"The stage {stage.name} ended with exit code {code}; the same command goes on from there",
                summary={"seconds": seconds},
                next_command=command,
                exit_code=FAILED,
            )
        results[stage.name] = json.loads(Path(result_file).read_text())
    for name, value in seconds.items():
        console.print(f"{name:<15} {value:7.1f} s", highlight=False)
    console.rule()
    return Report(
        title="F-Pig on videos it was never trained on",
        summary=summarise(results) | {"picture": f"{ROOT}/tokens.png", "seconds": seconds},
        next_command=f"mlflow server --backend-store-uri {args.tracking}    # the runs, on http://127.0.0.1:5000",
    )


def summarise(results: dict[str, Any]) -> dict[str, Any]:
    """What the demo reports, taken from the results of its stages."""
    embedded, evaluated, trained = results["embed_corpus"], results["evaluate"], results["train"]
    return {
        "num_videos": embedded["num_samples"],
        "num_embedded": embedded["num_embedded"],
        "num_rejected": embedded["num_rejected"],
        "t2v_r1": evaluated["t2v"]["R@1"],
        "t2v_r5": evaluated["t2v"]["R@5"],
        "t2v_r10": evaluated["t2v"]["R@10"],
        "v2t_r1": evaluated["v2t"]["R@1"],
        "chance_r1": evaluated["chance_r1"],
        "model_id": trained["model_id"],
        "manifest_digest": evaluated["manifest_digest"],
        "mlflow_run_id": trained["mlflow_run_id"],
    }


def cli() -> None:
    launch(Args, main, example=EXAMPLE)


if __name__ == "__main__":
    cli()
