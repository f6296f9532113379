"""Named experiments: one file per dataset, one function per experiment."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from cluster.placement import Placement
from cluster.task import Monitor
from jobs.experiment import Experiment
from jobs.recipes import demo, images, msrvtt


class Recipe(NamedTuple):
    """Experiments by method, the default one first, and the placement and pace they are usually run with."""

    about: str
    run_name: str
    methods: Mapping[str, Callable[[], Experiment]]
    placement: Callable[[], Placement]
    monitor: Callable[[], Monitor]

    def run_name_of(self, method: str) -> str:
        """Usual name of the run of a method."""
        return self.run_name if method == next(iter(self.methods)) else f"{self.run_name}-{method}"


RECIPES: dict[str, Recipe] = {
    "demo": Recipe(demo.ABOUT, "demo/train", demo.METHODS, demo.placement, demo.monitor),
    "msrvtt-fpig-b32": Recipe(
        "F-Pig, CLIP ViT-B/32, MSR-VTT 1k-A; hyper-parameters of the reference code",
        "msrvtt-fpig-b32",
        {"fpig": msrvtt.fpig_b32},
        lambda: msrvtt.placement(num_workers=4),
        msrvtt.monitor,
    ),
    "msrvtt-fpig-b16": Recipe(
        "F-Pig, CLIP ViT-B/16, MSR-VTT 1k-A; hyper-parameters of the reference code",
        "msrvtt-fpig-b16",
        {"fpig": msrvtt.fpig_b16},
        lambda: msrvtt.placement(num_workers=8),
        msrvtt.monitor,
    ),
    "msrvtt-two-tower-b32": Recipe(
        "baselines beside msrvtt-fpig-b32, on the same towers and schedule",
        "msrvtt-two-tower-b32",
        msrvtt.TWO_TOWERS,
        lambda: msrvtt.placement(num_workers=4),
        msrvtt.monitor,
    ),
    "msrvtt-eercf-b32": Recipe(
        "EERCF, CLIP ViT-B/32, MSR-VTT 1k-A; hyper-parameters of the reference code",
        "msrvtt-eercf-b32",
        {"eercf": msrvtt.eercf_b32},
        lambda: msrvtt.placement(num_workers=4),
        msrvtt.monitor,
    ),
    "msrvtt-t2v2t-b16": Recipe(
        "T2V2T, CLIP ViT-B/16, MSR-VTT 1k-A; hyper-parameters of the paper, towers are our choice",
        "msrvtt-t2v2t-b16",
        {"t2v2t": msrvtt.t2v2t_b16},
        lambda: msrvtt.placement(num_workers=8),
        msrvtt.monitor,
    ),
    "images-b32": Recipe(
        "pretraining on image-caption shards: F-Pig's generator, or T2V2T with masked words",
        "images-b32",
        images.METHODS,
        images.placement,
        images.monitor,
    ),
}
