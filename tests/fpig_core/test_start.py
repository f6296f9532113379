from pathlib import Path
from typing import Any

import pytest
import torch

from fpig_core.backbone import Backbone
from fpig_core.bundle import save_bundle
from fpig_core.fpig import FPig, FPigConfig
from fpig_core.preprocess import Preprocess
from fpig_core.start import start_from
from fpig_core.t2v2t import T2V2T, T2V2TConfig


def config_of(num_frames: int, **settings) -> FPigConfig:
    return FPigConfig(
        **{
            "backbone": Backbone(name="tiny", context_length=12),
            "preprocess": Preprocess(num_frames=num_frames, size=32),
            "num_selected": 5,
            **settings,
        }
    )


def fresh(config: FPigConfig, *, seed: int = 7) -> FPig:
    torch.manual_seed(seed)
    return FPig(config).eval()


@torch.no_grad()
def trained(config: FPigConfig) -> FPig:
    """A model none of whose weights is where it started."""
    model = fresh(config, seed=1)
    for tensor in model.state_dict().values():
        tensor.add_(0.05 * torch.randn(tensor.shape))
    return model


def film(num_frames: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (2, num_frames, 3, 32, 32), dtype=torch.uint8, generator=generator)


def assert_same(model: FPig, other: FPig, frame_BF3HW: torch.Tensor) -> None:
    got, wanted = model.encode_video(frame_BF3HW), other.encode_video(frame_BF3HW)
    for name in ("fused_BD", "unfused_BD", "pseudo_query_BD"):
        torch.testing.assert_close(getattr(got, name), getattr(wanted, name), rtol=0, atol=0)
    assert torch.equal(got.selection.index_BK, wanted.selection.index_BK)


@torch.no_grad()
def test_with_as_many_frames_every_weight_is_the_bundles(tmp_path):
    teacher, model = trained(config_of(3)), fresh(config_of(3))
    model_id = save_bundle(tmp_path / "b", teacher)
    assert start_from(model, tmp_path / "b") == model_id
    weights, wanted = model.state_dict(), teacher.state_dict()
    assert weights.keys() == wanted.keys()
    assert all(torch.equal(weights[key], wanted[key]) for key in wanted)
    assert save_bundle(tmp_path / "again", model) == model_id


@torch.no_grad()
@pytest.mark.parametrize(("few", "many"), [(6, 12), (1, 12), (12, 5)])
def test_with_other_frames_it_gives_what_the_old_model_gives_on_them(tmp_path, few, many):
    teacher, model = trained(config_of(few)), fresh(config_of(many))
    save_bundle(tmp_path / "b", teacher)
    start_from(model, tmp_path / "b")
    assert len(model.video.temporal_embedding) == many
    assert_same(model, teacher, film(many))


@torch.no_grad()
def test_a_pretrained_generator_starts_retrieval(tmp_path):
    teacher = trained(config_of(1, stage="generator", dropout=0.0, logit_scale_init=2.0))
    save_bundle(tmp_path / "b", teacher)
    model = fresh(config_of(12, backbone=Backbone(name="tiny", context_length=20), interaction_temperature=2.0))
    start_from(model, tmp_path / "b")
    mine, theirs = model.generator.state_dict(), teacher.generator.state_dict()
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(model.logit_scale, teacher.logit_scale)
    assert (model.config.stage, model.config.interaction_temperature) == ("retrieval", 2.0)
    torch.testing.assert_close(
        model.encode_video(film(1)).pseudo_query_BD, teacher.encode_video(film(1)).pseudo_query_BD, rtol=0, atol=0
    )


@torch.no_grad()
def test_retrieval_can_start_the_generator_stage_whose_freeze_stays(tmp_path):
    save_bundle(tmp_path / "b", trained(config_of(3)))
    model = fresh(config_of(1, stage="generator"))
    start_from(model, tmp_path / "b")
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad} == {"generator"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": Backbone(name="tiny", activation="quick_gelu")}, "tiny with gelu.*wanted.*quick_gelu"),
        (
            {"backbone": Backbone(name="ViT-B-32"), "preprocess": Preprocess(num_frames=3)},
            "fpig on tiny.*wanted fpig on ViT-B-32",
        ),
        ({"num_added_cls": 2}, r"video.added_cls has the shape \[3, 96\], wanted .*\[2, 96\].*num_added_cls$"),
        ({"num_added_cls": 0}, "video.added_cls has the shape.*wanted video.added_cls is missing.*num_added_cls$"),
        ({"use_bos": False, "dropout": 0.5}, r"generator.ends .*use_bos, dropout$"),
        ({"residual": "learned_mix"}, "residual_mix is missing.*residual$"),
    ],
)
def test_what_cannot_be_carried_over_is_refused_and_changes_nothing(tmp_path, settings, message):
    save_bundle(tmp_path / "b", fresh(config_of(3), seed=1))
    config = config_of(3, **settings)
    with torch.device("meta" if config.backbone.name != "tiny" else "cpu"):
        model = fresh(config)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        start_from(model, tmp_path / "b")
    if config.backbone.name == "tiny":
        assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_a_model_without_memory_is_checked(tmp_path, recwarn):
    model_id = save_bundle(tmp_path / "b", fresh(config_of(1, stage="generator"), seed=1))
    with torch.device("meta"):
        fits, does_not = FPig(config_of(12)), FPig(config_of(12, num_added_cls=1))
    assert start_from(fits, tmp_path / "b") == model_id
    with pytest.raises(ValueError, match="num_added_cls"):
        start_from(does_not, tmp_path / "b")
    assert not [warning for warning in recwarn if "meta" in str(warning.message)]


def test_a_folder_that_is_no_bundle_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"got no config\.json"):
        start_from(fresh(config_of(3)), Path(tmp_path))


@torch.no_grad()
def test_heads_of_pretraining_stay_behind_and_only_in_that_direction(tmp_path):
    common: dict[str, Any] = {"backbone": Backbone(name="tiny", context_length=12), "fusion_width": 96}
    pretrained = T2V2T(T2V2TConfig(**common, preprocess=Preprocess(num_frames=1, size=32), mlm_weight=1.0))
    model = T2V2T(T2V2TConfig(**common, preprocess=Preprocess(num_frames=3, size=32)))
    save_bundle(tmp_path / "pretrained", pretrained)
    start_from(model, tmp_path / "pretrained")
    weights = pretrained.state_dict()
    assert {key for key in weights if key not in model.state_dict()} == {"guess.weight", "guess.bias"}
    assert all(torch.equal(tensor, weights[key]) for key, tensor in model.state_dict().items())
    save_bundle(tmp_path / "plain", model)
    with pytest.raises(ValueError, match=r"guess\.bias is missing"):
        start_from(pretrained, tmp_path / "plain")
