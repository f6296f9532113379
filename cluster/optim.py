"""Optimiser and learning rates: AdamW, linear warm-up and cosine decay of the reference code, and rates by depth."""

import dataclasses
import functools
import math
from collections.abc import Iterable

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from fpig_core.depth import BackboneParameter


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optim:
    """Settings of the optimiser; they decide the result."""

    lr: float = 2e-6
    """Peak learning rate."""
    backbone_rate: float = 1.0
    """Learning rate of the parameters that CLIP brought along, as a share of ``lr``."""
    layer_decay: float = 1.0
    """Falls off the rates of CLIP's blocks, by this factor for each below the topmost; embeddings are the lowest."""
    freeze: float = 0.0
    """Share of all steps in which what CLIP brought along stays as it is, before it warms up; 0 for none."""
    final_rate: float = 0.0
    """Where the cosine ends, as a share of the peak."""
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.2
    """Not applied to biases, norms and other vectors, nor to the logit scale."""
    warmup: float = 0.01
    """Share of all steps over which the rate rises linearly."""
    clip_norm: float = 1.0
    """Largest norm of the whole gradient; 0 for any."""
    ema: float = 0.0
    """Decay a step of an average of the weights, which is validated and published in their place; 0 for none."""

    def __post_init__(self) -> None:
        if not (self.lr > 0 and self.clip_norm >= 0 and 0 <= self.warmup < 1 and self.weight_decay >= 0):
            raise ValueError(
                f"got lr={self.lr}, clip_norm={self.clip_norm}, warmup={self.warmup}, "
                f"weight_decay={self.weight_decay}; wanted lr > 0, clip_norm >= 0, 0 <= warmup < 1, weight_decay >= 0"
            )
        if not (self.backbone_rate > 0 and 0 <= self.final_rate <= 1):
            raise ValueError(
                f"got backbone_rate={self.backbone_rate}, final_rate={self.final_rate}; wanted above 0, and 0 to 1"
            )
        if not (0 < self.layer_decay <= 1 and 0 <= self.freeze < 1 and 0 <= self.ema < 1):
            raise ValueError(
                f"got layer_decay={self.layer_decay}, freeze={self.freeze}, ema={self.ema}; "
                "wanted 0 < layer_decay <= 1, 0 <= freeze < 1, 0 <= ema < 1; use 1, 0 and 0 to do without"
            )


def make_optimizer(model: nn.Module, optim: Optim, *, backbone: Iterable[BackboneParameter] = ()) -> torch.optim.AdamW:
    """AdamW with decay on matrices only, and rates of their own for the parameters in ``backbone``.

    Rates that fall with depth are those of ULMFiT (Howard and Ruder 2018, arXiv:1801.06146, section 3.2).
    """
    blocks_above = {id(parameter): above for parameter, above in backbone}
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    # New parameters come first: the rate of the first group is the one that is reported.
    for parameter in sorted(model.parameters(), key=lambda parameter: id(parameter) in blocks_above):
        if not parameter.requires_grad:
            continue
        above = blocks_above.get(id(parameter))
        rate = optim.lr if above is None else optim.lr * optim.backbone_rate * optim.layer_decay**above
        decay = optim.weight_decay if parameter.ndim >= 2 else 0.0
        groups.setdefault((rate, decay, above is not None and optim.freeze > 0), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": rate, "weight_decay": decay, "waits": waits}
            for (rate, decay, waits), parameters in groups.items()
        ],
        lr=optim.lr,
        betas=optim.betas,
        fused=True,
    )


def rate_factor(step: int, optim: Optim, *, num_steps: int, waits: bool = False) -> float:
    """Learning rate of ``step`` (from 0) as a share of its peak, of the parameters that are frozen first if ``waits``.

    Those have a rate of 0, with which AdamW changes nothing, and then a warm-up of their own, as long as the first.
    """
    warmup_steps = max(1, round(optim.warmup * num_steps))
    frozen_steps = round(optim.freeze * num_steps) if waits else 0
    thawed = min(1.0, max(0, step + 1 - frozen_steps) / warmup_steps) if frozen_steps else 1.0
    if step < warmup_steps:
        return thawed * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return thawed * (optim.final_rate + (1 - optim.final_rate) * cosine)


def make_scheduler(optimizer: torch.optim.Optimizer, optim: Optim, *, num_steps: int) -> LambdaLR:
    """The rates of all groups as functions of the step alone."""
    return LambdaLR(
        optimizer,
        [
            functools.partial(rate_factor, optim=optim, num_steps=num_steps, waits=group["waits"])
            for group in optimizer.param_groups
        ],
    )
