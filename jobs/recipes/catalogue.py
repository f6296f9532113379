"""All recipes by name."""

from jobs.recipes import activitynet, demo, didemo, images, lsmdc, msrvtt, msvd, vatex
from jobs.recipes.recipe import Recipe

RECIPES: dict[str, Recipe] = (
    {"demo": Recipe(demo.ABOUT, "demo/train", demo.METHODS, demo.placement, demo.monitor)}
    | msrvtt.RECIPES
    | msvd.RECIPES
    | vatex.RECIPES
    | didemo.RECIPES
    | activitynet.RECIPES
    | lsmdc.RECIPES
    | {
        "images-b32": Recipe(
            "pretraining on image-caption shards: F-Pig's generator, or T2V2T with masked words",
            "images-b32",
            images.METHODS,
            images.placement,
            images.monitor,
        )
    }
)
