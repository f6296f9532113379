"""VATEX (Wang et al., ICCV 2019), English: as MSR-VTT, with ten captions a video."""

from jobs.recipes.families import FAMILIES, PASSES
from jobs.recipes.marks import inferred
from jobs.recipes.recipe import Recipe, recipes_of

CAPTIONS = 10

RECIPES: dict[str, Recipe] = recipes_of(
    "vatex",
    title="VATEX",
    dataset="vatex",
    changes={
        family: inferred(f"{PASSES} passes over pairs, as for MSR-VTT", {"epochs": PASSES * CAPTIONS})
        for family in FAMILIES
    },
)
