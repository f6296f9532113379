"""Named experiments: one file per dataset, one function per recipe."""

from collections.abc import Callable
from typing import NamedTuple

from cluster.placement import Placement
from cluster.task import Monitor
from jobs.experiment import Experiment
from jobs.recipes import demo, msrvtt


class Recipe(NamedTuple):
    """An experiment, and the placement and pace it is usually run with."""

    about: str
    run_name: str
    experiment: Callable[[], Experiment]
    placement: Callable[[], Placement]
    monitor: Callable[[], Monitor]


RECIPES: dict[str, Recipe] = {
    "demo": Recipe(demo.ABOUT, "demo/train", demo.fpig_tiny, demo.placement, demo.monitor),
    "msrvtt-fpig-b32": Recipe(msrvtt.ABOUT, "msrvtt-fpig-b32", msrvtt.fpig_b32, msrvtt.placement, msrvtt.monitor),
}
