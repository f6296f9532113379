"""Optimiser and learning-rate schedule of the reference code: AdamW, linear warm-up, cosine to zero."""

import dataclasses
import math

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optim:
    """Settings of the optimiser; they decide the result."""

    lr: float = 2e-6
    """Peak learning rate."""
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


def make_optimizer(model: nn.Module, optim: Optim) -> torch.optim.AdamW:
    """AdamW with decay on matrices only."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": optim.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, fused=True)


def rate_factor(step: int, *, num_steps: int, warmup: float) -> float:
    """Learning rate of ``step`` (from 0) as a share of its peak."""
    warmup_steps = max(1, round(warmup * num_steps))
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def make_scheduler(optimizer: torch.optim.Optimizer, optim: Optim, *, num_steps: int) -> LambdaLR:
    return LambdaLR(optimizer, lambda step: rate_factor(step, num_steps=num_steps, warmup=optim.warmup))
