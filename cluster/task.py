"""What a training task is: the settings that travel from the driver to its workers."""

import dataclasses

from cluster.best import BestBundle
from cluster.checkpoints import CheckpointStore
from cluster.optim import Optim
from cluster.placement import Placement
from fpig_core.models import ModelConfig
from fpig_core.schedule import Schedule


@dataclasses.dataclass(frozen=True, kw_only=True)
class Monitor:
    """How often a run speaks and saves."""

    log_every: int = 10
    """Steps between two metric points."""
    checkpoint_every: int = 200
    """Steps between two checkpoints; the end of the run always makes one."""
    keep_checkpoints: int = 2
    """Complete checkpoints that stay on storage."""
    draw_every: int = 5
    """Epochs between two tables of all validation queries, with pictures of the best and the worst; 0 makes none."""
    record_steps: bool = False
    """Write the losses and the uids of every step to ``RUN/steps``."""

    def __post_init__(self) -> None:
        if min(self.log_every, self.checkpoint_every, self.keep_checkpoints) < 1:
            raise ValueError(f"got {self}, wanted at least 1 for each")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainTask:
    """Everything a worker needs; it travels to the worker by value."""

    model: ModelConfig
    optim: Optim
    schedule: Schedule
    seed: int
    placement: Placement
    monitor: Monitor
    run_url: str
    start_url: str = ""
    """Bundle whose weights a new run starts from; empty for none."""
    flops_per_sample: float = 0.0
    """Operations of a step for each of its samples; 0 if nobody counted."""
    profile: bool = False
    """Trace some steps, see ``cluster.profiling``."""

    @property
    def checkpoints(self) -> CheckpointStore:
        return CheckpointStore(f"{self.run_url}/checkpoints")

    @property
    def best(self) -> BestBundle:
        return BestBundle(f"{self.run_url}/best")
