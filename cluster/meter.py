"""What a worker notes between two metric points, without waiting for its device."""

import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor


class Meter:
    """Sums of losses, sample counts and waiting time since the last metric point."""

    def __init__(self, device: torch.device):
        self.device = device
        self.rejected: list[dict[str, str]] = []
        self._clear()

    def _clear(self) -> None:
        self.totals: dict[str, Tensor] = {}
        self.num_steps, self.num_samples, self.wait_s, self.start = 0, 0, 0.0, time.monotonic()

    def timed(self, blocks: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Pass blocks on, counting the time spent waiting for each."""
        iterator = iter(blocks)
        while True:
            start = time.monotonic()
            block = next(iterator, None)
            self.wait_s += time.monotonic() - start
            if block is None:
                return
            yield block

    def note_rejected(self, block: dict[str, Any]) -> None:
        """Keep what the stream could not use, so that the driver can put it on record."""
        for place in np.flatnonzero(~block["ok"] & (block["uid"] != "")):
            self.rejected.append({"uid": str(block["uid"][place]), "reason": str(block["reason"][place])})

    def note_step(self, losses: dict[str, Tensor], num_samples: int) -> None:
        for name, loss in losses.items():
            self.totals[name] = self.totals.get(name, torch.zeros((), device=self.device)) + loss.detach()
        self.num_steps += 1
        self.num_samples += num_samples

    def take(self) -> dict[str, float]:
        """Means over steps and workers since the last call; every worker must call it, and gets the same numbers."""
        elapsed = time.monotonic() - self.start
        names = sorted(self.totals)
        sums = torch.stack([self.totals[name] for name in names])
        counts = torch.tensor([self.num_samples, self.wait_s], device=self.device)
        summed = torch.cat([sums, counts])
        dist.all_reduce(summed)
        *losses, num_samples, wait_s = summed.tolist()
        num_workers = dist.get_world_size()
        metrics = {name: loss / self.num_steps / num_workers for name, loss in zip(names, losses, strict=True)}
        metrics["samples_per_s"] = num_samples / elapsed
        metrics["data_wait_share"] = wait_s / num_workers / elapsed
        self._clear()
        return metrics
