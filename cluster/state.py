"""The state of a training run on disk, by parameter name: it fits any number of workers and any ZeRO stage.

Float32 values of every trained parameter, its weight and what stands beside it in Adam's state (two moments, and the
average of the weights if the run keeps one), and the weight alone of frozen ones, as safetensors. Every worker writes a
share, for which it needs the values of one parameter at a time; what a worker reads back are the pieces that it holds
under the placement at hand. The model's buffers, which are the same everywhere, are in the first worker's share.
"""

import contextlib
from collections.abc import Collection, Sequence
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

from cluster.adam import adam_of, kinds_of_state, link_state, make_state
from cluster.state_files import BUFFER, WEIGHT, state_files


def save_state(engine: deepspeed.DeepSpeedEngine, folder: Path) -> None:
    """Write this worker's share of the state; every worker must call it, after at least one step.

    Raises:
        OSError: the disk is full, or refuses.
    """
    rank, num_workers = dist.get_rank(), dist.get_world_size()
    link_state(engine)
    share: dict[str, Tensor] = {}
    if rank == 0:
        share |= {name: value.to("cpu", copy=True).contiguous() for name, value in _buffers(engine).items()}
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
        wanted = {name: _keys(engine, name, parameter) for name, parameter in named.items()}
        buffers = _buffers(engine)
        _require_same({key for keys in wanted.values() for key in keys}, saved.keys() - buffers.keys())
        make_state(engine, num_steps=num_steps, kinds=kinds_of_state(engine))
        for name, parameter in named.items():
            _put(engine, parameter, [saved[key].get_tensor(key) for key in wanted[name]])
        for key in buffers.keys() & saved.keys():
            buffers[key].copy_(saved[key].get_tensor(key))
    _set_schedule(engine, num_steps)


def _named(engine: Any) -> dict[str, nn.Parameter]:
    return dict(engine.module.named_parameters())


def _buffers(engine: Any) -> dict[str, Tensor]:
    """What the model's ``state_dict`` holds beside its parameters, by key."""
    parameters = dict(engine.module.named_parameters(remove_duplicate=False))
    return {f"{BUFFER}/{name}": held for name, held in engine.module.state_dict().items() if name not in parameters}


def _keys(engine: Any, name: str, parameter: nn.Parameter) -> list[str]:
    kinds = (WEIGHT, *kinds_of_state(engine)) if parameter.requires_grad else (WEIGHT,)
    return [f"{kind}/{name}" for kind in kinds]


def _require_same(wanted: set[str], saved: Collection[str]) -> None:
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
    kinds = kinds_of_state(engine)
    if not engine.zero_optimization():
        state = adam_of(engine).state[parameter]
        return {WEIGHT: parameter, **{kind: state[kind] for kind in kinds}}
    return {
        WEIGHT: safe_get_full_fp32_param(parameter),
        **{kind: safe_get_full_optimizer_state(parameter, kind) for kind in kinds},
    }


def _put(engine: deepspeed.DeepSpeedEngine, parameter: nn.Parameter, values: Sequence[Tensor]) -> None:
    """Set a parameter, its float32 master copy and what stands beside that, in the order of its keys."""
    weight, *others = (value.to(engine.device) for value in values)
    with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0), torch.no_grad():
        parameter.copy_(weight)
    if not parameter.requires_grad:
        return
    beside = list(zip(kinds_of_state(engine), others, strict=True))
    if _is_sharded(parameter):
        safe_set_local_fp32_param(parameter, _piece(parameter, weight))
        for kind, value in beside:
            safe_set_local_optimizer_state(parameter, _piece(parameter, value), kind)
    elif engine.zero_optimization():
        safe_set_full_fp32_param(parameter, weight)
        for kind, value in beside:
            safe_set_full_optimizer_state(parameter, value, kind)
    else:
        for kind, value in beside:
            adam_of(engine).state[parameter][kind].copy_(value)


def _piece(parameter: Any, whole: Tensor) -> Tensor:
    """This worker's piece under ZeRO-3, which fills the last one up."""
    size, rank = parameter.ds_tensor.numel(), dist.get_rank()
    piece = torch.zeros(size, dtype=whole.dtype, device=whole.device)
    held = whole.flatten()[rank * size : (rank + 1) * size]
    piece[: len(held)] = held
    return piece


def _set_schedule(engine: Any, num_steps: int) -> None:
    """The learning rates of the step after ``num_steps`` steps."""
    scheduler = engine.lr_scheduler
    rates = [base * factor(num_steps) for base, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler.load_state_dict(scheduler.state_dict() | {"last_epoch": num_steps, "_last_lr": rates})
