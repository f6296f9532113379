"""The DeepSpeed engine: start, the clamp, whole weights under any ZeRO stage."""

from contextlib import AbstractContextManager
from typing import Any, cast

import deepspeed
import deepspeed.ops
import torch
from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param
from torch import nn

from cluster.optim import Optim, make_optimizer, make_scheduler
from cluster.placement import bucket_elements
from fpig_core.models import Model
from fpig_core.training_step import TrainingStep


def start_engine(
    step: TrainingStep,
    optim: Optim,
    *,
    zero_stage: int,
    offload: bool = False,
    rows: int,
    num_steps: int,
    dtype: torch.dtype,
) -> deepspeed.DeepSpeedEngine:
    """Wrap a training step for data-parallel training; the process group must exist already.

    Args:
        offload: the optimiser's state and step are on the host; ``zero_stage`` 1 to 3.
        rows: samples of one step on this worker.
        dtype: type of matrix products; master weights are float32 always.
    """
    if not torch.cuda.is_available():
        # DeepSpeed would compile a shared-memory collective for CPUs; gloo serves, and needs no compiler.
        deepspeed.ops.__dict__["__compatible_ops__"] = {}
    optimizer = make_optimizer(step, optim, backbone=step.model.backbone_parameters())
    trained = sum(parameter.numel() for parameter in step.parameters() if parameter.requires_grad)
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": rows,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": optim.clip_norm,
        "zero_optimization": {"stage": zero_stage, "reduce_bucket_size": bucket_elements(trained)},
        # The host steps with torch's AdamW too: DeepSpeed's own would have to be compiled.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }
    if offload:
        host = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
        config["zero_optimization"]["offload_optimizer"] = host
    if dtype is not torch.float32:
        config["torch_autocast"] = {"enabled": True, "dtype": str(dtype).removeprefix("torch.")}
    scheduler = make_scheduler(optimizer, optim, num_steps=num_steps)
    engine, *_ = deepspeed.initialize(
        model=step,
        optimizer=optimizer,
        lr_scheduler=scheduler,  # pyright: ignore[reportArgumentType]  # declared too narrowly: any torch scheduler
        config=config,
        dist_init_required=False,
    )
    return engine


def take_step(engine: deepspeed.DeepSpeedEngine) -> torch.Tensor | None:
    """Clip the gradients and step -> their norm before they were clipped, if DeepSpeed tells it."""
    if not engine.zero_optimization():
        # Without sharding DeepSpeed clips and keeps the norm to itself.
        parameters = cast("nn.Module", engine.module).parameters()
        norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        engine.step()
        return norm
    engine.step()
    norm = engine.get_global_grad_norm()
    return None if norm is None else torch.as_tensor(norm, device=engine.device)


def clamp_scale(model: Model) -> None:
    """Clamp the logit scale of a model under an engine, and the float32 master copy that ZeRO holds of it."""
    scale = model.logit_scale
    if not scale.requires_grad:
        return
    with deepspeed.zero.GatheredParameters([scale], modifier_rank=0):
        model.clamp()
        clamped = scale.detach().clone()
    if hasattr(scale, "ds_id"):
        # ZeRO-3 keeps a piece of the padded master on every worker; a single element fills any piece.
        safe_set_local_fp32_param(scale, clamped)
    else:
        safe_set_full_fp32_param(scale, clamped)


def whole_weights(model: nn.Module) -> AbstractContextManager[None]:
    """Context in which every parameter of a model under an engine is whole on this worker."""
    return deepspeed.zero.GatheredParameters(list(model.parameters()))
