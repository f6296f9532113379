"""What a training run settles before it takes any resources: its order of samples, its start, its folder."""

import dataclasses
import json
from collections.abc import Mapping

import torch

from fpig_core.bundle import load_bundle
from fpig_core.models import ModelConfig, build_model, model_config_to_dict
from fpig_core.schedule import Phase, Schedule
from fpig_core.start import start_from
from jobs.experiment import Experiment
from pipelines import storage
from pipelines.manifest import Manifest
from pipelines.places import absolute, local_bundle
from pipelines.plan import Plan

EXPERIMENT = "experiment.json"


def make_plan(experiment: Experiment, manifests: Mapping[Phase, Manifest]) -> Plan:
    """The plan of a run.

    Raises:
        ValueError: a shard set has no captioned sample.
    """
    counts = {phase: manifest.num_captioned for phase, manifest in manifests.items()}
    for phase, manifest in manifests.items():
        if not counts[phase]:
            raise ValueError(f"got no captioned video in {manifest.root}; data.{phase} needs some")
    schedule = Schedule(
        num_train=counts["train"],
        num_val=counts["val"],
        global_batch=experiment.global_batch,
        epochs=experiment.epochs,
    )
    digest = manifests["train"].digest
    return Plan(schedule=schedule, seed=experiment.seed, digest=digest, shuffle=experiment.data.shuffle)


def settle_start(experiment: Experiment) -> tuple[ModelConfig, str]:
    """The settings of the model to build, and the ``model_id`` of the bundle that it starts from ("" without one).

    All weights come from that bundle, so none of the backbone's own are read.

    Raises:
        ValueError: the bundle cannot start this model.
    """
    config = experiment.model
    if not experiment.start:
        return config, ""
    with local_bundle(absolute(experiment.start)) as folder:
        backbone = load_bundle(folder).config.backbone
        wanted = config.backbone.activation
        activation = backbone.activation if wanted == "auto" else wanted
        config = dataclasses.replace(
            config, backbone=dataclasses.replace(config.backbone, pretrained="", activation=activation)
        )
        with torch.device("meta"):
            model = build_model(config)
        return config, start_from(model, folder)


def claim_run(run_url: str, experiment: Experiment, manifests: Mapping[Phase, Manifest], *, start_id: str) -> None:
    """Tie a run's folder to one experiment, and keep the resolved settings there.

    A folder without results is free: a start that failed, for want of nodes say, holds nobody to its settings.

    Raises:
        ValueError: the folder belongs to another experiment, or cannot be written.
    """
    digests = {f"{phase}_manifest": manifest.digest for phase, manifest in manifests.items()}
    model = {"model": model_config_to_dict(experiment.model)}
    settings = dataclasses.asdict(experiment) | model | digests | {"start": start_id}
    text = json.dumps(settings, indent=2, sort_keys=True, default=str) + "\n"
    url = storage.join(run_url, EXPERIMENT)
    storage.require_writable(run_url)
    has_results = any(storage.list_files(storage.join(run_url, folder)) for folder in ("checkpoints", "best"))
    if not has_results or not storage.exists(url):
        storage.write_bytes(url, text.encode())
    elif (known := storage.read_bytes(url).decode()) != text:
        differing = [new for old, new in zip(known.splitlines(), text.splitlines(), strict=False) if old != new]
        raise ValueError(
            f"{run_url} holds another experiment (differs at: {differing[0].strip() if differing else 'its end'}); "
            "use another --name, or remove the folder"
        )
