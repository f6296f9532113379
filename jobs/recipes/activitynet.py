"""ActivityNet Captions (Krishna et al., ICCV 2017): paragraphs of long videos; val_1 is the test."""

from jobs.recipes.families import CLIP4CLIP, CLIP_VIP, FAMILIES, PASSES, T2V2T, VINDLU, as_fpig
from jobs.recipes.marks import inferred, ours, published
from jobs.recipes.recipe import Recipe, recipes_of

_LONG = {"model.backbone.context_length": 64, "model.preprocess.num_frames": 64}
_VIP = inferred(
    CLIP_VIP,
    {
        "model.backbone.context_length": 70,
        "model.preprocess.num_frames": 32,
        "optim.lr": 1e-6,
        "global_batch": 128,
        "epochs": 20,
    },
)
_T2V2T_PASSES = 10

RECIPES: dict[str, Recipe] = recipes_of(
    "activitynet",
    title="ActivityNet, paragraphs",
    dataset="activitynet",
    changes={
        "fpig-b32": _VIP,
        "fpig-b16": _VIP | inferred(CLIP_VIP, {"global_batch": 64}),
        "two-tower-b32": as_fpig(_VIP),
        "clip4clip-b32": FAMILIES["clip4clip-b32"].values | published(CLIP4CLIP, {**_LONG, "epochs": PASSES}),
        "eercf-b32": inferred(CLIP4CLIP, {**_LONG, "epochs": PASSES})
        | ours("64 frames need the memory", {"global_batch": 128}),
        "t2v2t-b16": FAMILIES["t2v2t-b16"].values
        | inferred(VINDLU, {"model.backbone.context_length": 64, "global_batch": 32})
        | ours("VindLU selects its checkpoint on the test set", {"data.select_on": "val"})
        # The paper trains on 12 frames and infers on 32; here both are one setting.
        | published(T2V2T, {"optim.warmup": 0.5 / _T2V2T_PASSES, "epochs": _T2V2T_PASSES}),
    },
)
