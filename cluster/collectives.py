"""Gathering features of all workers so that gradients flow back to the worker they came from."""

import torch
import torch.distributed as dist
from torch import Tensor


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, local: Tensor) -> Tensor:
        gathered = local.new_empty((dist.get_world_size() * local.shape[0], *local.shape[1:]))
        dist.all_gather_into_tensor(gathered, local.contiguous())
        return gathered

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        # Not summed in place: what else the gathered rows were added to gets the same tensor as its gradient.
        own = grad.new_empty((grad.shape[0] // dist.get_world_size(), *grad.shape[1:]))
        dist.reduce_scatter_tensor(own, grad.contiguous())
        return own


def gather(local: Tensor) -> Tensor:
    """[B, …] of every worker → [G, …], rank by rank; the gradient of a row is the sum over all workers."""
    return _Gather.apply(local)  # pyright: ignore[reportReturnType]
