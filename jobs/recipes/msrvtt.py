"""MSR-VTT (Xu et al., CVPR 2016): split 1k-A, where most hyper-parameters were published, and the two others."""

from jobs.recipes.families import FAMILIES
from jobs.recipes.recipe import Recipe, recipes_of

RECIPES: dict[str, Recipe] = (
    recipes_of(
        "msrvtt",
        title="MSR-VTT 1k-A",
        dataset="msrvtt-1k",
        changes={family: {} for family in FAMILIES},
        is_origin=True,
    )
    | recipes_of("msrvtt7k", title="MSR-VTT 7k", dataset="msrvtt-7k", changes={family: {} for family in FAMILIES})
    | recipes_of(
        "msrvtt3k", title="MSR-VTT, full split", dataset="msrvtt-3k", changes={family: {} for family in FAMILIES}
    )
)
