"""Named experiments: one file per dataset; ``python -m jobs.recipes`` lists them with the origin of each value."""

from jobs.recipes.catalogue import RECIPES
from jobs.recipes.listing import cli
from jobs.recipes.recipe import Recipe

__all__ = ["RECIPES", "Recipe", "cli"]
