"""The rows of a global batch that one worker computes, and how they meet the rows of the other workers.

Nothing here starts a process: ``gather`` is handed in. It turns [B, …] into [G, …], worker after worker, and its
backward pass sums the gradients of all workers.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fpig_core.precision import at_least_float32

Gather = Callable[[Tensor], Tensor]


def identity(x_B: Tensor) -> Tensor:
    """``gather`` of a single worker."""
    return x_B


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noise:
    """Random numbers of one step that follow a row's place in the global batch, not how the batch is cut.

    ``first`` is the place of the first row at hand.
    """

    seed: int
    first: int = 0

    def at(self, offset: int) -> "Noise":
        """The noise of the rows from ``offset`` on."""
        return dataclasses.replace(self, first=self.first + offset)

    def uniform(self, name: str, num_rows: int, width: int, *, device: torch.device | str = "cpu") -> Tensor:
        """Numbers in [0, 1), float32 [num_rows, width]; each ``name`` has its own."""
        key = hashlib.sha256(f"{self.seed}/{name}".encode()).digest()[:8]
        # PCG64 steps once a number, so the rows before ours are skipped instead of drawn.
        stream = np.random.PCG64(int.from_bytes(key, "little")).advance(self.first * width)
        number = np.random.Generator(stream).random((num_rows, width)).astype(np.float32)
        return torch.from_numpy(np.minimum(number, np.nextafter(np.float32(1), np.float32(0)))).to(device)

    def keep(self, name: str, num_rows: int, width: int, *, rate: float, device: torch.device | str = "cpu") -> Tensor:
        """Factors of dropout at ``rate``: 0, or 1 / (1 − rate)."""
        return (self.uniform(name, num_rows, width, device=device) >= rate).float() / (1 - rate)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
    """B rows of this worker among G of the global batch. Build with ``Rows.of``.

    Rows with ``valid = False`` are placeholders: they count neither as rows nor as columns. A loss over these rows is
    scaled so that its *mean over workers* is the loss of the global batch: what averaging gradients over workers needs.
    At most ``micro_batch`` rows are computed at once; 0 sets no bound.
    """

    valid_B: Tensor
    valid_G: Tensor
    gather: Gather
    rank: int
    noise: Noise | None
    micro_batch: int

    @classmethod
    def of(
        cls,
        valid_B: Tensor,
        *,
        gather: Gather = identity,
        rank: int = 0,
        noise: Noise | None = None,
        micro_batch: int = 0,
    ) -> "Rows":
        """The rows of worker ``rank``; all workers must call it together."""
        valid_G = gather(valid_B.float()) > 0.5
        return cls(valid_B=valid_B, valid_G=valid_G, gather=gather, rank=rank, noise=noise, micro_batch=micro_batch)

    @property
    def own(self) -> slice:
        """Places of this worker's rows in the global batch."""
        return slice(self.rank * len(self.valid_B), (self.rank + 1) * len(self.valid_B))

    @property
    def weight_B(self) -> Tensor:
        """Share of each row in a mean over the valid rows of the global batch, times the number of workers."""
        num_workers = len(self.valid_G) // len(self.valid_B)
        return self.valid_B * (num_workers / self.valid_G.sum().clamp(min=1))

    def mean(self, x_B: Tensor) -> Tensor:
        """Mean of one number a row over the valid rows of the global batch; what placeholders hold is of no account."""
        return torch.where(self.valid_B, self.weight_B * x_B, 0.0).sum()

    def clean(self, x_B: Tensor) -> Tensor:
        """Zeros in place of placeholders: whatever they hold, NaN included, reaches neither result nor gradient."""
        return at_least_float32(x_B).masked_fill(~self.valid_B.view(-1, *[1] * (x_B.ndim - 1)), 0.0)


def in_micro_batches(function: Callable[[slice], Any], num_rows: int, *, size: int) -> Any:
    """``function`` of all rows, computed for at most ``size`` rows at once (0: all), in value and in gradient.

    ``function(slice)`` returns a tensor or a named tuple of tensors, a row each. Only these are kept: the backward pass
    computes each piece again. So a loss over all rows needs the memory of one piece, and the cut leaves no mark on it
    (GradCache, Gao et al. 2021, arXiv:2101.06983, as gradient checkpointing). ``function`` must draw no random numbers.
    """
    if not size or size >= num_rows:
        return function(slice(0, num_rows))
    cuts = [slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]
    parts = [checkpoint(function, cut, use_reentrant=False, preserve_rng_state=False) for cut in cuts]
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    return type(parts[0])._make(torch.cat(column) for column in zip(*parts, strict=True))
