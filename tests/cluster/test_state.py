"""What a saved state holds beside parameters: buffers, which an export needs and a resumed run gets back."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from cluster.optim import Optim
from cluster.state_files import read_weights
from fpig_core.models import build_model
from fpig_core.training_step import TrainingStep
from tests.cluster.gloo import run_workers
from tests.methods import METHOD_CONFIGS

FIXED_ENDS = dataclasses.replace(METHOD_CONFIGS["fpig"], train_bos_eos=False)


def start(seed: int) -> Any:
    from cluster.adam import make_state
    from cluster.engine import start_engine

    torch.manual_seed(seed)
    step = TrainingStep(build_model(FIXED_ENDS))
    engine = start_engine(step, Optim(), zero_stage=0, rows=2, num_steps=10, dtype=torch.float32)
    make_state(engine, num_steps=1)
    return engine


def save_and_load(rank: int, num_workers: int, folder: str) -> bool:
    """Whether a strict ``load_state_dict`` takes what was saved, and another engine gets all of it."""
    from cluster.state import load_state, save_state

    saved, other = start(0), start(1)
    save_state(saved, Path(folder))
    load_state(other, Path(folder), num_steps=1)
    exported = build_model(FIXED_ENDS)
    exported.load_state_dict(read_weights(Path(folder)))
    wanted = saved.module.model.state_dict()
    return all(
        torch.equal(model.state_dict()[name], wanted[name])
        for model in (exported, other.module.model)
        for name in wanted
    )


def test_a_state_brings_back_the_buffers_too(tmp_path) -> None:
    assert "generator.ends" in dict(build_model(FIXED_ENDS).named_buffers())
    assert run_workers(save_and_load, 1, str(tmp_path)) == [True]
