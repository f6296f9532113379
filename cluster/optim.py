"""Optimiser and learning-rate schedule of the reference code: AdamW, linear warm-up, cosine decay."""

import dataclasses
import math
from collections.abc import Iterable

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optim:
    """Settings of the optimiser; they decide the result."""

    lr: float = 2e-6
    """Peak learning rate."""
    backbone_rate: float = 1.0
    """Learning rate of the parameters that CLIP brought along, as a share of ``lr``."""
    final_rate: float = 0.0
    """Where the cosine ends, as a share of the peak."""
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.2
    """Not applied to biases, norms and other vectors, nor to the logit scale."""
    warmup: float = 0.01
    """Share of all steps over which the rate rises linearly."""
    clip_norm: float = 1.0
    """Largest norm of the whole gradient."""

    def __post_init__(self) -> None:
        if not (self.lr > 0 and self.clip_norm > 0 and 0 <= self.warmup < 1 and self.weight_decay >= 0):
            raise ValueError(
                f"got lr={self.lr}, clip_norm={self.clip_norm}, warmup={self.warmup}, "
                f"weight_decay={self.weight_decay}; wanted lr > 0, clip_norm > 0, 0 <= warmup < 1, weight_decay >= 0"
            )
        if not (self.backbone_rate > 0 and 0 <= self.final_rate <= 1):
            raise ValueError(
                f"got backbone_rate={self.backbone_rate}, final_rate={self.final_rate}; wanted above 0, and 0 to 1"
            )


def make_optimizer(model: nn.Module, optim: Optim, *, backbone: Iterable[nn.Parameter] = ()) -> torch.optim.AdamW:
    """AdamW with decay on matrices only, and another rate for the parameters in ``backbone``."""
    slower = {id(parameter) for parameter in backbone}
    groups = [
        {
            "params": [
                parameter
                for parameter in model.parameters()
                if parameter.requires_grad and (id(parameter) in slower, parameter.ndim >= 2) == (is_slower, is_matrix)
            ],
            "lr": optim.lr * (optim.backbone_rate if is_slower else 1.0),
            "weight_decay": optim.weight_decay if is_matrix else 0.0,
        }
        for is_slower in (False, True)
        for is_matrix in (True, False)
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=optim.lr, betas=optim.betas, fused=True)


def rate_factor(step: int, optim: Optim, *, num_steps: int) -> float:
    """Learning rate of ``step`` (from 0) as a share of its peak."""
    warmup_steps = max(1, round(optim.warmup * num_steps))
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return optim.final_rate + (1 - optim.final_rate) * cosine


def make_scheduler(optimizer: torch.optim.Optimizer, optim: Optim, *, num_steps: int) -> LambdaLR:
    return LambdaLR(optimizer, lambda step: rate_factor(step, optim, num_steps=num_steps))
