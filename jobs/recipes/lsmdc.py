"""LSMDC 2016 (Rohrbach et al., CVPR 2015): one sentence a segment of a film."""

from jobs.recipes.families import CLIP4CLIP, CLIP_VIP, FAMILIES, PASSES, as_fpig
from jobs.recipes.marks import inferred, published
from jobs.recipes.recipe import Recipe, recipes_of

_VIP = inferred(CLIP_VIP, {"optim.lr": 1e-6, "global_batch": 128, "epochs": 10})
_PASSES = inferred(f"{PASSES} passes over pairs, as for MSR-VTT", {"epochs": PASSES})

RECIPES: dict[str, Recipe] = recipes_of(
    "lsmdc",
    title="LSMDC",
    dataset="lsmdc",
    changes={
        "fpig-b32": _VIP,
        "fpig-b16": _VIP,
        "two-tower-b32": as_fpig(_VIP),
        "clip4clip-b32": FAMILIES["clip4clip-b32"].values | published(CLIP4CLIP, {"epochs": PASSES}),
        "eercf-b32": _PASSES,
        "t2v2t-b16": _PASSES,
    },
)
