"""The arithmetic of a training run: which batch of the stream is what.

One ordered stream carries the whole run: the training batches of epoch 0, the validation batches, the training
batches of epoch 1, and so on. Every batch has ``global_batch`` slots; slots past the last sample of a phase stay empty.
The numbers depend on the experiment only, never on the number of workers.
"""

import dataclasses
from typing import Literal, NamedTuple

Phase = Literal["train", "val"]


class Place(NamedTuple):
    """Where a batch of the stream stands: its epoch, its phase, and its index within that phase."""

    epoch: int
    phase: Phase
    index: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """Sizes of a run, from which every position follows."""

    num_train: int
    num_val: int
    global_batch: int
    epochs: int

    def __post_init__(self) -> None:
        if min(self.num_train, self.global_batch, self.epochs) < 1 or self.num_val < 0:
            raise ValueError(
                f"got num_train={self.num_train}, global_batch={self.global_batch}, epochs={self.epochs}, "
                f"num_val={self.num_val}; wanted at least 1, 1, 1 and 0"
            )

    @property
    def train_batches(self) -> int:
        """Training batches of one epoch; the last one is filled up with empty slots."""
        return -(-self.num_train // self.global_batch)

    @property
    def val_batches(self) -> int:
        return -(-self.num_val // self.global_batch)

    @property
    def epoch_batches(self) -> int:
        return self.train_batches + self.val_batches

    @property
    def num_batches(self) -> int:
        return self.epochs * self.epoch_batches

    @property
    def num_steps(self) -> int:
        """Optimiser steps of the run."""
        return self.epochs * self.train_batches

    def place(self, batch: int) -> Place:
        epoch, index = divmod(batch, self.epoch_batches)
        if index < self.train_batches:
            return Place(epoch, "train", index)
        return Place(epoch, "val", index - self.train_batches)

    def steps_before(self, batch: int) -> int:
        """Optimiser steps done when ``batch`` is the next one."""
        epoch, index = divmod(batch, self.epoch_batches)
        return epoch * self.train_batches + min(index, self.train_batches)

    def ends_epoch(self, batch: int) -> bool:
        return (batch + 1) % self.epoch_batches == 0
