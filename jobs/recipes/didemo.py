"""DiDeMo (Hendricks et al., ICCV 2017): paragraphs, one a video, so that a pass over videos is one over pairs."""

from jobs.recipes.families import CLIP4CLIP, CLIP_VIP, FAMILIES, PASSES, T2V2T, VINDLU, as_fpig
from jobs.recipes.marks import inferred, ours, published
from jobs.recipes.recipe import Recipe, recipes_of

_LONG = {"model.backbone.context_length": 64, "model.preprocess.num_frames": 64}
_VIP = inferred(
    CLIP_VIP,
    {
        "model.backbone.context_length": 50,
        "model.preprocess.num_frames": 12,
        "optim.lr": 1e-6,
        "global_batch": 128,
        "epochs": 20,
    },
)
_T2V2T_PASSES = 10

RECIPES: dict[str, Recipe] = recipes_of(
    "didemo",
    title="DiDeMo, paragraphs",
    dataset="didemo",
    changes={
        "fpig-b32": _VIP,
        "fpig-b16": _VIP | inferred(CLIP_VIP, {"model.backbone.context_length": 70}),
        "two-tower-b32": as_fpig(_VIP),
        "clip4clip-b32": FAMILIES["clip4clip-b32"].values | published(CLIP4CLIP, {**_LONG, "epochs": PASSES}),
        "eercf-b32": inferred(CLIP4CLIP, {**_LONG, "epochs": PASSES})
        | ours("64 frames need the memory", {"global_batch": 128}),
        "t2v2t-b16": FAMILIES["t2v2t-b16"].values
        | inferred(VINDLU, {"model.backbone.context_length": 64, "global_batch": 32, "data.select_on": "val"})
        | published(T2V2T, {"optim.warmup": 0.5 / _T2V2T_PASSES, "epochs": _T2V2T_PASSES}),
    },
)
