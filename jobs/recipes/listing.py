"""``recipes``: list the named experiments, with the origin of every hyper-parameter."""

import dataclasses
from collections import Counter
from typing import Any

import tyro
from rich.console import Console

from jobs.cli import Report, launch
from jobs.recipes.catalogue import RECIPES
from jobs.recipes.marks import MARKS, Value, Values, read
from jobs.recipes.recipe import Recipe
from jobs.text import plain

EXAMPLE = "python -m jobs.recipes didemo-fpig-b32"
SETTINGS = (
    *("model.backbone.name", "model.backbone.pretrained", "model.backbone.context_length"),
    *("model.preprocess.num_frames", "model.preprocess.resize_mode"),
    *("optim.lr", "optim.backbone_rate", "optim.final_rate", "optim.betas", "optim.weight_decay"),
    *("optim.warmup", "optim.clip_norm", "global_batch", "epochs", "seed", "data.select_on"),
)
"""What is shown of every recipe, whether it sets it or not."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """List all recipes, or every hyper-parameter of one with its origin: published, inferred or ours."""

    recipe: tyro.conf.Positional[str] = ""
    json: str = ""
    """Also write the list to this file."""


def main(args: Args) -> Report:
    if not args.recipe:
        Console().print(plain(_all()), soft_wrap=True)
        summary = {"num_recipes": len(RECIPES), "recipes": {name: as_dict(recipe) for name, recipe in RECIPES.items()}}
        return Report(title="Recipes", summary=summary, next_command=EXAMPLE)
    if args.recipe not in RECIPES:
        raise ValueError(f"got recipe {args.recipe!r}, wanted one of {', '.join(RECIPES)}")
    recipe = RECIPES[args.recipe]
    Console().print(plain(_one(recipe)), soft_wrap=True)
    summary = {"recipe": args.recipe, **as_dict(recipe)}
    return Report(title="Recipe", summary=summary, next_command=f"python -m jobs.train {args.recipe} --help")


def settings_of(recipe: Recipe) -> Values:
    """Every setting that is shown, of the recipe's default method. What nobody published is ours."""
    experiment = next(iter(recipe.methods.values()))()
    return {
        path: recipe.values.get(path, Value(read(experiment, path), "ours", "default"))
        for path in dict.fromkeys((*SETTINGS, *recipe.values))
    }


def as_dict(recipe: Recipe) -> dict[str, Any]:
    """All of a recipe as plain values."""
    settings = {path: value._asdict() for path, value in settings_of(recipe).items()}
    return {"about": recipe.about, "methods": list(recipe.methods), "settings": settings}


def _all() -> str:
    """A line a recipe: how many of its values are published, inferred, ours."""
    width = max(map(len, RECIPES))
    lines = ["  ".join((f"{'recipe':<{width}}", *MARKS, "about"))]
    for name, recipe in RECIPES.items():
        marks = Counter(value.mark for value in settings_of(recipe).values())
        counts = (f"{marks[mark]:>{len(mark)}}" for mark in MARKS)
        lines.append("  ".join((f"{name:<{width}}", *counts, f"{recipe.about} [{', '.join(recipe.methods)}]")))
    return "\n".join((*lines, *_legend()))


def _one(recipe: Recipe) -> str:
    """A line a setting."""
    settings = settings_of(recipe)
    paths, values = (max(map(len, map(str, told))) for told in (settings, (found.value for found in settings.values())))
    lines = [
        f"{path:<{paths}}  {found.value!s:<{values}}  {found.mark:<9}  {found.source}"
        for path, found in settings.items()
    ]
    return "\n".join((f"{recipe.about} [{', '.join(recipe.methods)}]", *lines, *_legend()))


def _legend() -> list[str]:
    return [f"{mark}: {text}" for mark, text in MARKS.items()]


def cli() -> None:
    launch(Args, main, example=EXAMPLE)
