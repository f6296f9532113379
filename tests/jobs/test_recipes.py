"""Every recipe builds its experiment, and tells where each of its values comes from."""

import json

import pytest

from fpig_core.models import check_config
from jobs.recipes import RECIPES, listing
from jobs.recipes.marks import MARKS, build, ours, read
from pipelines.datasets.catalogue import DATASETS

MODELS = {
    experiment.model: (name, method)
    for name, recipe in RECIPES.items()
    if name != "demo"
    for method, make in recipe.methods.items()
    for experiment in [make()]
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_builds_what_it_tells(name):
    recipe = RECIPES[name]
    for experiment in (make() for make in recipe.methods.values()):
        assert {path: read(experiment, path) for path in recipe.values} == {
            path: found.value for path, found in recipe.values.items()
        }
        assert experiment.model.backbone.context_length <= 77
        assert experiment.global_batch % recipe.placement().num_workers == 0
    assert all(found.mark in MARKS and found.source for found in listing.settings_of(recipe).values())


def test_every_data_set_has_recipes_on_the_folders_that_write_shards_makes():
    folders = {
        experiment.data.train for recipe in RECIPES.values() for experiment in [next(iter(recipe.methods.values()))()]
    }
    assert {f"data/{name}/train" for name in DATASETS if name not in ("captions", "paragraphs")} < folders


def test_published_values_are_those_of_the_sources():
    def values(name):
        return {path: found.value for path, found in RECIPES[name].values.items() if found.mark == "published"}

    assert values("msrvtt-fpig-b32")["optim.lr"] == 2e-6
    assert (values("msrvtt-fpig-b16")["optim.lr"], values("msrvtt-fpig-b16")["global_batch"]) == (3e-6, 88)
    long = {"model.backbone.context_length": 64, "model.preprocess.num_frames": 64, "epochs": 5, "global_batch": 128}
    for dataset in ("didemo", "activitynet"):
        assert long.items() <= values(f"{dataset}-clip4clip-b32").items()
        assert values(f"{dataset}-t2v2t-b16")["epochs"] == 10
        assert values(f"{dataset}-fpig-b32") == {}
        assert RECIPES[f"{dataset}-fpig-b32"].values["optim.lr"].mark == "inferred"
    assert values("msrvtt7k-eercf-b32") == {}


@pytest.mark.parametrize("model", [model for model, (name, _) in MODELS.items() if name == "activitynet-fpig-b32"])
def test_a_model_of_many_frames_fits_its_tower(model):
    check_config(model)


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS, ids=["-".join(names) for names in MODELS.values()])
def test_every_model_fits_its_tower(model):
    check_config(model)


def test_a_value_of_no_setting_is_refused():
    experiment = RECIPES["msrvtt-fpig-b32"].methods["fpig"]()
    values = ours("test", {"epochs": 1, "global_batch": 8, "optim.momentum": 0.9})
    with pytest.raises(AttributeError, match="momentum"):
        read(experiment, "optim.momentum")
    with pytest.raises(TypeError, match="momentum"):
        build(experiment.model, experiment.data, values)


def test_the_listing_names_all_and_shows_one(capsys):
    report = listing.main(listing.Args())
    out = capsys.readouterr().out
    assert all(name in out for name in RECIPES)
    json.dumps(report.summary)
    report = listing.main(listing.Args(recipe="didemo-fpig-b32"))
    assert "optim.lr" in capsys.readouterr().out
    found = report.summary["settings"]["optim.lr"]
    assert (found["value"], found["mark"]) == (1e-6, "inferred")
    assert "CLIP-ViP" in found["source"]
    with pytest.raises(ValueError, match="got recipe 'nope', wanted one of demo"):
        listing.main(listing.Args(recipe="nope"))
