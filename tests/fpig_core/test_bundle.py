import dataclasses
import json

import pytest
import torch

from fpig_core.bundle import CONFIG, WEIGHTS, load_bundle, save_bundle
from fpig_core.fpig import FPig


@torch.no_grad()
def test_a_loaded_model_gives_the_same_vectors(tiny_fpig, tiny_batch, tmp_path):
    model_id = save_bundle(tmp_path / "bundle", tiny_fpig)
    bundle = load_bundle(tmp_path / "bundle")
    assert bundle.model_id == model_id
    assert bundle.config == tiny_fpig.config
    assert not bundle.model.training
    for got, wanted in zip(bundle.model.features(*tiny_batch), tiny_fpig.features(*tiny_batch), strict=True):
        assert torch.equal(got, wanted)


def test_equal_models_give_equal_bytes(tiny_fpig, tmp_path):
    first = save_bundle(tmp_path / "a", tiny_fpig)
    second = save_bundle(tmp_path / "b", load_bundle(tmp_path / "a").model)
    assert first == second
    for name in (WEIGHTS, CONFIG):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_name_follows_weights_and_settings(tiny_fpig, tiny_config, tmp_path):
    first = save_bundle(tmp_path / "a", tiny_fpig)
    torch.manual_seed(0)
    warmer = FPig(dataclasses.replace(tiny_config, interaction_temperature=5.0))
    assert save_bundle(tmp_path / "b", warmer) != first
    with torch.no_grad():
        tiny_fpig.logit_scale.add_(0.1)
    assert save_bundle(tmp_path / "a", tiny_fpig) != first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_only_a_bundle_is_overwritten(tiny_fpig, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="use a new folder"):
        save_bundle(tmp_path, tiny_fpig)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_bundle_cannot_make_the_reader_open_other_weights(tiny_fpig, tmp_path):
    save_bundle(tmp_path / "a", tiny_fpig)
    config = json.loads((tmp_path / "a" / CONFIG).read_text())
    config["backbone"]["pretrained"] = str(tmp_path / "elsewhere.pt")
    (tmp_path / "a" / CONFIG).write_text(json.dumps(config))
    assert load_bundle(tmp_path / "a").config.backbone.pretrained == ""


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_missing_and_damaged_files_are_named(tiny_fpig, tmp_path, name):
    save_bundle(tmp_path / "a", tiny_fpig)
    path = tmp_path / "a" / name
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=name):
        load_bundle(tmp_path / "a")
    path.unlink()
    with pytest.raises(ValueError, match=f"got no {name}"):
        load_bundle(tmp_path / "a")
