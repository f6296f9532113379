"""What a recipe is, and how the recipes of a data set come from the families of methods."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from cluster.placement import Placement
from cluster.task import Monitor
from fpig_core.models import ModelConfig
from jobs.experiment import Experiment, TrainData
from jobs.recipes.families import FAMILIES
from jobs.recipes.marks import Values, build, carried

NO_VALUES: Values = {}


class Recipe(NamedTuple):
    """Experiments by method, the default one first, and the placement and pace they are usually run with.

    ``values`` are the hyper-parameters that the methods share, with their origin; empty: all are our choice.
    """

    about: str
    run_name: str
    methods: Mapping[str, Callable[[], Experiment]]
    placement: Callable[[], Placement]
    monitor: Callable[[], Monitor]
    values: Values = NO_VALUES

    def run_name_of(self, method: str) -> str:
        """Usual name of the run of a method."""
        return self.run_name if method == next(iter(self.methods)) else f"{self.run_name}-{method}"


def recipes_of(
    prefix: str, *, title: str, dataset: str, changes: Mapping[str, Values], is_origin: bool = False
) -> dict[str, Recipe]:
    """Recipes ``PREFIX-FAMILY`` for the families in ``changes``, on ``data/DATASET`` as ``write_shards`` names it.

    ``changes`` stand for what differs from MSR-VTT 1k-A, from where all other values are carried over; with
    ``is_origin`` the data set is that one.
    """
    found = {}
    for name, changed in changes.items():
        family = FAMILIES[name]
        values = (family.values if is_origin else carried(family.values, origin="MSR-VTT 1k-A")) | dict(changed)
        found[f"{prefix}-{name}"] = Recipe(
            about=f"{family.about}; {title}",
            run_name=f"{prefix}-{name}",
            methods={method: _builder(model, dataset, values) for method, model in family.models.items()},
            placement=_placement(family.num_workers),
            monitor=_monitor,
            values=values,
        )
    return found


def _builder(model: ModelConfig, dataset: str, values: Values) -> Callable[[], Experiment]:
    return lambda: build(model, TrainData(train=f"data/{dataset}/train", val=f"data/{dataset}/val"), values)


def _placement(num_workers: int) -> Callable[[], Placement]:
    return lambda: Placement(num_workers=num_workers, device="cuda", cpus_per_worker=2, decode_cpus=8, zero_stage=1)


def _monitor() -> Monitor:
    return Monitor(log_every=10, checkpoint_every=200)
