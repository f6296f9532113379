"""MSVD (Chen and Dolan, 2011): as MSR-VTT, with about 41 captions a video."""

from jobs.recipes.families import CLIP4CLIP, FAMILIES, PASSES
from jobs.recipes.marks import inferred, published
from jobs.recipes.recipe import Recipe, recipes_of

CAPTIONS = 41
"""About 80,000 captions of 1,970 videos."""
_EPOCHS = {"epochs": PASSES * CAPTIONS}

RECIPES: dict[str, Recipe] = recipes_of(
    "msvd",
    title="MSVD",
    dataset="msvd",
    changes={family: inferred(f"{PASSES} passes over pairs, as for MSR-VTT", _EPOCHS) for family in FAMILIES}
    | {"clip4clip-b32": FAMILIES["clip4clip-b32"].values | published(CLIP4CLIP, _EPOCHS)},
)
