"""What decides the result of a training run."""

import dataclasses
from typing import Literal

from cluster.optim import Optim
from fpig_core.models import ModelConfig
from pipelines.plan import Shuffle


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainData:
    """Shard sets, by folder or URL, each with its manifest."""

    train: str
    """Shard set to learn from."""
    val: str
    """Shard set that selects the best model."""
    select_on: Literal["val", "test"] = "val"
    """What the set under ``val`` is. Much published work selects on the test set; such a model's results are marked."""
    shuffle: Shuffle = Shuffle()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """Model, data, optimisation, global batch and seed: the same experiment gives the same result on any placement."""

    model: ModelConfig
    data: TrainData
    optim: Optim
    global_batch: int
    """Samples of one optimiser step over all workers; every other sample of it is a negative."""
    epochs: int
    """Passes over the training videos; each visit draws one of a video's captions."""
    seed: int = 42
    start: str = ""
    """Model bundle whose weights training starts from, such as a pretrained generator; a folder or URL."""
