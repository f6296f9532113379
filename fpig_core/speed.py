"""Ways to compute the same faster or in less memory."""

from torch import nn


def compile_blocks(model: nn.Module, *, backend: str = "inductor") -> None:
    """Compile every block of every stack of ``model`` at its first call (``torch.compile``, one block at a time).

    Blocks of one stack share their code, so that a deep model compiles as fast as a shallow one.
    """
    for stack in model.modules():
        if isinstance(stack, nn.ModuleList):
            for block in stack:
                block.compile(backend=backend)


def checkpoint_blocks(model: nn.Module) -> None:
    """Keep only what enters each block for the backward pass, which computes the rest again."""
    for module in model.modules():
        if hasattr(module, "grad_checkpointing"):
            setattr(module, "grad_checkpointing", True)  # noqa: B010 — modules are typed as holding tensors
