"""The plan: which sample stands in which slot of which batch, as a pure function.

Samples are taken in chunks (contiguous runs of the manifest) whose order is permuted each epoch, and shuffled once
more inside windows of many chunks. Both permutations are computed position by position, so that a run over 10⁹
samples needs no array of its size, and resuming is starting at another position.
"""

import dataclasses

import numpy as np

from fpig_core.schedule import Schedule
from pipelines.permutation import derive_key, permute

EMPTY = -1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shuffle:
    """Sizes in samples: ``window`` samples are mixed freely; a window is made of chunks of ``chunk`` samples that are
    neighbours on storage.
    """

    chunk: int = 16
    window: int = 8192

    def __post_init__(self) -> None:
        if self.chunk < 1 or self.window < self.chunk:
            raise ValueError(f"got chunk={self.chunk}, window={self.window}; wanted 1 <= chunk <= window")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """f(seed, epoch, sizes, position) → sample. ``digest`` ties the plan to the manifests it was made for."""

    schedule: Schedule
    seed: int
    digest: str
    shuffle: Shuffle = Shuffle()

    def samples(self, batch: int) -> np.ndarray:
        """The samples in the slots of ``batch``: int64 [global_batch]; ``EMPTY`` where a slot holds none.

        Numbers count the usable samples of the manifest that the batch's phase reads, in manifest order.
        """
        place = self.schedule.place(batch)
        size = self.schedule.num_train if place.phase == "train" else self.schedule.num_val
        position = place.index * self.schedule.global_batch + np.arange(self.schedule.global_batch)
        sample = np.full(len(position), EMPTY, dtype=np.int64)
        filled = position < size
        sample[filled] = self._shuffled(position[filled], place.epoch) if place.phase == "train" else position[filled]
        return sample

    def _shuffled(self, position: np.ndarray, epoch: int) -> np.ndarray:
        size, chunk, window = self.schedule.num_train, self.shuffle.chunk, self.shuffle.window
        key = derive_key("plan", self.seed, self.digest, epoch)
        mixed = np.empty_like(position)
        for number in np.unique(position // window).tolist():
            inside = position // window == number
            width = min(window, size - number * window)
            mixed[inside] = number * window + permute(position[inside] % window, width, derive_key(key, number))
        num_chunks = size // chunk
        whole = mixed < num_chunks * chunk
        row = mixed.copy()
        if num_chunks:
            row[whole] = permute(mixed[whole] // chunk, num_chunks, key) * chunk + mixed[whole] % chunk
        # The samples beyond the last whole chunk keep their place; turning the ring moves other ones there each epoch.
        return (row + key % size) % size

    def sample_rng(self, epoch: int, uid: str) -> np.random.Generator:
        """The random numbers of one visit: which caption is drawn, where the frames start."""
        return np.random.default_rng(derive_key("visit", self.seed, epoch, uid))
