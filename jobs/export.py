"""``export``: turn a checkpoint of a training run into a model bundle, without a cluster."""

import dataclasses
import json
import tempfile
from pathlib import Path

from cluster.checkpoints import Checkpoint, CheckpointStore
from cluster.state_files import read_weights
from fpig_core.bundle import save_bundle, without_first_weights
from fpig_core.models import build_model, model_config_from_dict
from jobs.cli import Report, launch
from jobs.run_setup import EXPERIMENT
from pipelines import storage
from pipelines.places import absolute

EXAMPLE = "python -m jobs.export --run runs/demo/train --out runs/demo/exported"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Write the weights of a checkpoint as a model bundle, also of a run that is not finished."""

    run: str
    """Folder or URL of the training run."""
    out: str
    """Folder or URL of the bundle."""
    checkpoint: str = ""
    """Name of the checkpoint's folder; by default the newest complete one."""
    json: str = ""
    """Write the result to this file."""


def main(args: Args) -> Report:
    run = absolute(args.run)
    settings = storage.join(run, EXPERIMENT)
    if not storage.exists(settings):
        raise ValueError(f"got run={args.run!r}, which holds no {EXPERIMENT}; give the folder of a training run")
    config = model_config_from_dict(json.loads(storage.read_bytes(settings))["model"])
    store = CheckpointStore(storage.join(run, "checkpoints"))
    chosen = choose(store, args.checkpoint)
    model = build_model(without_first_weights(config))
    with tempfile.TemporaryDirectory() as folder:
        state, bundle = Path(folder) / "state", Path(folder) / "model"
        state.mkdir()
        store.download(chosen, state)
        model.load_state_dict(read_weights(state))
        model_id = save_bundle(bundle, model)
        for path in sorted(bundle.iterdir()):
            storage.upload(path, storage.join(absolute(args.out), path.name))
    return Report(
        title=f"Exported {chosen.folder} of {args.run}",
        summary={"model": args.out, "model_id": model_id, "checkpoint": chosen.folder, "batch": chosen.batch},
        next_command=f"python -m jobs.embed_corpus --model {args.out} --manifest SHARDS --out CORPUS",
    )


def choose(store: CheckpointStore, name: str) -> Checkpoint:
    """The checkpoint of this name, or the newest.

    Raises:
        ValueError: there is none, or not a complete one.
    """
    complete = list(store.complete())
    chosen = [checkpoint for checkpoint in complete if checkpoint.folder == name] if name else complete
    if not chosen:
        known = ", ".join(checkpoint.folder for checkpoint in complete) or "none"
        raise ValueError(f"got checkpoint={name or 'the newest'!r} under {store.root}; complete ones there: {known}")
    return chosen[0]


def cli() -> None:
    launch(Args, main, example=EXAMPLE)


if __name__ == "__main__":
    cli()
