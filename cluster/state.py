"""The state of a training run on disk, by parameter name: it fits any number of workers and any ZeRO stage.

Three float32 values of every trained parameter, its weight and Adam's two moments, and the weight alone of frozen
ones, as safetensors. Every worker writes a share, for which it needs the values of one parameter at a time; what a
worker reads back are the pieces that it holds under the placement at hand.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from cluster.state_files import WEIGHT, state_files

MOMENTS = ("exp_avg", "exp_avg_sq")


def save_state(engine: deepspeed.DeepSpeedEngine, folder: Path) -> None:
    """Write this worker's share of the state; every worker must call it, after at least one step.

    Raises:
        OSError: the disk is full, or refuses.
    """
    rank, num_workers = dist.get_rank(), dist.get_world_size()
    _link_moments(engine)
    share: dict[str, Tensor] = {}
    for number, (name, parameter) in enumerate(_named(engine).items()):
        is_mine = number % num_workers == rank
        for kind, value in _whole(engine, parameter).items():
            if is_mine:
                share[f"{kind}/{name}"] = value.detach().to("cpu", copy=True).contiguous()
    try:
        save_file(share, folder / f"state-{rank:05d}.safetensors")
    except SafetensorError as error:
        raise OSError(str(error)) from error


def load_state(engine: deepspeed.DeepSpeedEngine, folder: Path, *, num_steps: int) -> None:
    """Put the state that any workers saved after ``num_steps`` steps into a new engine; every worker must call it.

    Raises:
        ValueError: the files do not hold the parameters of this model.
    """
    with contextlib.ExitStack() as stack:
        saved: dict[str, Any] = {}
        for path in state_files(folder):
            file = stack.enter_context(safe_open(path, framework="pt"))
            saved |= dict.fromkeys(file.keys(), file)
        named = _named(engine)
        _require_same(named, saved)
        _make_moments(engine, num_steps)
        for name, parameter in named.items():
            _put(engine, parameter, {key: saved[key].get_tensor(key) for key in _keys(name, parameter)})
    _set_schedule(engine, num_steps)


def _named(engine: Any) -> dict[str, nn.Parameter]:
    return dict(engine.module.named_parameters())


def _keys(name: str, parameter: nn.Parameter) -> list[str]:
    kinds = (WEIGHT, *MOMENTS) if parameter.requires_grad else (WEIGHT,)
    return [f"{kind}/{name}" for kind in kinds]


def _require_same(named: Mapping[str, nn.Parameter], saved: Mapping[str, Any]) -> None:
    wanted = {key for name, parameter in named.items() for key in _keys(name, parameter)}
    if different := sorted(wanted ^ set(saved)):
        where = "only in the checkpoint" if different[0] in saved else "not in the checkpoint"
        raise ValueError(
            f"the checkpoint is of another model: {len(different)} values differ, the first is {different[0]}, {where}"
        )


def _is_sharded(parameter: nn.Parameter) -> bool:
    """Whether ZeRO-3 holds the parameter in pieces."""
    return hasattr(parameter, "ds_id")


def _whole(engine: Any, parameter: Any) -> dict[str, Any]:
    """What is saved of a parameter, gathered from all workers."""
    if not parameter.requires_grad:
        with deepspeed.zero.GatheredParameters([parameter]):
            return {WEIGHT: parameter.detach().clone()}
    if not engine.zero_optimization():
        state = _adam(engine).state[parameter]
        return {WEIGHT: parameter, **{kind: state[kind] for kind in MOMENTS}}
    values: Any = [safe_get_full_optimizer_state(parameter, kind) for kind in MOMENTS]
    return {WEIGHT: safe_get_full_fp32_param(parameter), **dict(zip(MOMENTS, values, strict=True))}


def _put(engine: deepspeed.DeepSpeedEngine, parameter: nn.Parameter, values: Mapping[str, Tensor]) -> None:
    """Set a parameter, its float32 master copy and its moments."""
    weight, *moments = (value.to(engine.device) for value in values.values())
    with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0), torch.no_grad():
        parameter.copy_(weight)
    if not parameter.requires_grad:
        return
    if _is_sharded(parameter):
        safe_set_local_fp32_param(parameter, _piece(parameter, weight))
        for kind, moment in zip(MOMENTS, moments, strict=True):
            safe_set_local_optimizer_state(parameter, _piece(parameter, moment), kind)
    elif engine.zero_optimization():
        safe_set_full_fp32_param(parameter, weight)
        for kind, moment in zip(MOMENTS, moments, strict=True):
            safe_set_full_optimizer_state(parameter, moment, kind)
    else:
        for kind, moment in zip(MOMENTS, moments, strict=True):
            _adam(engine).state[parameter][kind].copy_(moment)


def _piece(parameter: Any, whole: Tensor) -> Tensor:
    """This worker's piece under ZeRO-3, which fills the last one up."""
    size, rank = parameter.ds_tensor.numel(), dist.get_rank()
    piece = torch.zeros(size, dtype=whole.dtype, device=whole.device)
    held = whole.flatten()[rank * size : (rank + 1) * size]
    piece[: len(held)] = held
    return piece


def _adam(engine: Any) -> torch.optim.AdamW:
    return engine.optimizer.optimizer if engine.zero_optimization() else engine.optimizer


def _make_moments(engine: Any, num_steps: int) -> None:
    """Give every tensor that Adam works on its state after ``num_steps`` steps, as Adam itself does in the first."""
    adam = _adam(engine)
    for tensor in _tensors_of(engine, adam):
        adam.state[tensor] = {
            "step": torch.tensor(float(num_steps), device=tensor.device),
            **{kind: torch.zeros_like(tensor) for kind in MOMENTS},
        }
    _link_moments(engine)


def _link_moments(engine: Any) -> None:
    """Tell the pieces of parameters their pieces of the moments. DeepSpeed does, when only its first group has any."""
    if engine.zero_optimization_stage() in (1, 2):
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()


def _tensors_of(engine: Any, adam: torch.optim.AdamW) -> Iterator[Tensor]:
    """The parameters, or what ZeRO made of them: their float32 masters in flat pieces."""
    stage = engine.zero_optimization_stage()
    if stage == 0:
        yield from (parameter for group in adam.param_groups for parameter in group["params"])
    else:
        zero = engine.optimizer
        yield from zero.single_partition_of_fp32_groups if stage < 3 else zero.fp32_partitioned_groups_flat


def _set_schedule(engine: Any, num_steps: int) -> None:
    """The learning rates of the step after ``num_steps`` steps."""
    scheduler = engine.lr_scheduler
    rates = [base * factor(num_steps) for base, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler.load_state_dict(scheduler.state_dict() | {"last_epoch": num_steps, "_last_lr": rates})
