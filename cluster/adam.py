"""Adam's state under an engine: what stands beside each tensor that it works on, whatever ZeRO made of them."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

MOMENTS = ("exp_avg", "exp_avg_sq")


def adam_of(engine: Any) -> torch.optim.AdamW:
    return engine.optimizer.optimizer if engine.zero_optimization() else engine.optimizer


def masters(engine: Any) -> Iterator[Tensor]:
    """The parameters, or what ZeRO made of them: their float32 masters in flat pieces."""
    stage = engine.zero_optimization_stage()
    if stage == 0:
        yield from (parameter for group in adam_of(engine).param_groups for parameter in group["params"])
    else:
        zero = engine.optimizer
        yield from zero.single_partition_of_fp32_groups if stage < 3 else zero.fp32_partitioned_groups_flat


def make_state(engine: Any, *, num_steps: int, kinds: tuple[str, ...] = MOMENTS) -> None:
    """Give every master its state after ``num_steps`` steps, as Adam itself does in the first: zeros of its shape.

    What ``kinds`` names beside the moments lies on their device and is found by parameter as they are; Adam leaves it
    alone.
    """
    adam = adam_of(engine)
    for master in masters(engine):
        adam.state[master] = {
            "step": torch.tensor(float(num_steps), device=master.device),
            **{kind: torch.zeros_like(master, requires_grad=False) for kind in kinds},
        }
    link_state(engine)


def kinds_of_state(engine: Any) -> tuple[str, ...]:
    """What ``make_state`` was asked for; the moments alone if it was not."""
    state = adam_of(engine).state.get(next(masters(engine)))
    return tuple(kind for kind in state if kind != "step") if state else MOMENTS


def link_state(engine: Any) -> None:
    """Tell the pieces of parameters their pieces of the state. DeepSpeed does, when only its first group has any."""
    if engine.zero_optimization_stage() in (1, 2):
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()
