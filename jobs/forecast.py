"""What a training would need, told before anything starts: ``train … --plan DEVICE``."""

import argparse
import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from cluster.estimate import CPU, DEVICES, Memory, advise, estimate
from cluster.placement import Placement
from fpig_core.schedule import Schedule
from jobs.budget import parse_fraction
from jobs.cli import Report
from jobs.experiment import Experiment

SUBMIT = ("ray", "job", "submit", "--address", "http://127.0.0.1:8265", "--working-dir", ".", "--")
GIB = 2**30


def forecast(
    experiment: Experiment,
    placement: Placement,
    *,
    name: str,
    tracking: str,
    model: Any,
    schedule: Schedule | str,
    device: str,
    share: str,
    words: Sequence[str],
) -> Report:
    """The report of a plan.

    Args:
        model: the model on ``meta``, in training mode.
        schedule: or why there is none yet.
        share: part of the device's peak that the run is taken to reach.
        words: command line of the training.

    Raises:
        ValueError: an unknown device, or no share.
    """
    reached = parse_fraction(share)
    found = estimate(model, global_batch=experiment.global_batch, placement=placement, device=device)
    stage = placement.stage_of(placement.num_workers)
    _show(found.memory, marked=stage)
    advice = advise(model, found, global_batch=experiment.global_batch, placement=placement, device=device)
    summary: dict[str, Any] = {
        "devices": f"{placement.num_workers} × {device}",
        "parameters": found.sizes.parameters,
        "trained": found.sizes.trained,
        "precision": "bf16" if found.dtype == torch.bfloat16 else "fp32",
        "zero_stage": stage,
        "gib_per_device": found.memory[stage].total / GIB,
        "tflop_a_step_and_device": found.cost.flops / 1e12,
        "gflop_a_sample": found.cost.flops / found.rows / 1e9,
        "epochs": experiment.epochs,
    }
    if device != CPU:
        summary["gib_of_the_device"] = DEVICES[device].memory / GIB
    if isinstance(schedule, Schedule):
        summary |= {"num_steps": schedule.num_steps, "num_samples": schedule.num_train * schedule.epochs}
        if device != CPU and reached:
            rate = reached * DEVICES[device].peak(found.dtype)
            summary[f"hours_at_{share}_of_the_peak"] = schedule.num_steps * found.cost.flops / rate / 3600
    else:
        summary["num_steps"] = f"not known: {schedule}"
    summary["advice"] = advice
    if relative := relative_places(experiment, placement, tracking=tracking):
        summary["submitted"] = f"a job's folder is a throw-away copy: give {', '.join(relative)} in full, or as URLs"
    memory = {str(stage): dataclasses.asdict(of) | {"total": of.total} for stage, of in found.memory.items()}
    command = [*SUBMIT, "python", "-m", "jobs.train", *words]
    return Report(
        title=f"Plan of {name}; nothing was started",
        summary=summary | {"memory_by_stage": memory, "submit": command},
        next_command=shlex.join(command),
    )


def without_plan(words: Sequence[str]) -> list[str]:
    """The command line of the training itself."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for names in (("--plan",), ("--plan-share", "--plan_share"), ("--json",)):
        parser.add_argument(*names)
    return parser.parse_known_args(list(words))[1]


def relative_places(experiment: Experiment, placement: Placement, *, tracking: str) -> list[str]:
    """Settings that name a place on this machine by a path that begins in the current folder."""
    pretrained = experiment.model.backbone.pretrained
    places = {
        "data.train": experiment.data.train,
        "data.val": experiment.data.val,
        "start": experiment.start,
        "model.backbone.pretrained": pretrained if Path(pretrained).is_file() else "",
        "placement.storage": placement.storage,
        "tracking": tracking.removeprefix("sqlite:///") if tracking.startswith("sqlite:///") else "",
    }
    return [name for name, place in places.items() if place and "://" not in place and not place.startswith("/")]


def _show(memory: Mapping[int, Memory], *, marked: int) -> None:
    """A table with a column for each stage, that of the placement marked."""
    table = Table("GiB on a device", *(f"ZeRO {stage}{' *' if stage == marked else ''}" for stage in memory))
    for name in [*(field.name for field in dataclasses.fields(Memory)), "total"]:
        table.add_row(name, *(f"{getattr(of, name) / GIB:.2f}" for of in memory.values()))
    Console().print(table)
