import dataclasses
import math

import pytest
import torch
import torch.nn.functional as nnf

from fpig_core.backbone import Backbone, build_clip
from fpig_core.fpig import FPig, FPigConfig
from fpig_core.normalise import normalise
from fpig_core.preprocess import Preprocess
from fpig_core.rows import Rows
from fpig_core.two_tower import Features, TwoTower, TwoTowerConfig

PREPROCESS = Preprocess(num_frames=3, size=32)


def build(pooling, **settings) -> TwoTower:
    torch.manual_seed(0)
    return TwoTower(
        TwoTowerConfig(backbone=Backbone(name="tiny"), preprocess=PREPROCESS, pooling=pooling, **settings)
    ).eval()


@torch.no_grad()
def test_mean_pooling_is_the_mean_of_clips_own_frame_vectors(tiny_batch):
    model = build("mean_pool")
    torch.manual_seed(0)
    clip = build_clip(Backbone(name="tiny")).eval()
    for number, frame_F3HW in enumerate(tiny_batch.frame):
        total = torch.zeros(96)
        for frame_3HW in normalise(frame_F3HW, PREPROCESS):
            total += nnf.normalize(clip.visual(frame_3HW[None])[0], dim=0)
        got = model.encode_video(tiny_batch.frame[number : number + 1]).video_BD[0]
        torch.testing.assert_close(got, nnf.normalize(total, dim=0), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_vip_cls_is_fpig_before_generator_and_interaction(tiny_batch):
    torch.manual_seed(0)
    fpig = FPig(FPigConfig(backbone=Backbone(name="tiny"), preprocess=PREPROCESS, num_selected=4)).eval()
    model = build("vip_cls")
    model.video.load_state_dict(fpig.video.state_dict())
    got, wanted = model.encode_video(tiny_batch.frame), fpig.encode_video(tiny_batch.frame)
    assert torch.equal(got.video_BD, wanted.unfused_BD)


@torch.no_grad()
@pytest.mark.parametrize("num_added_cls", [0, 3])
def test_vip_mean_pools_all_but_the_patches(tiny_batch, num_added_cls):
    model = build("vip_mean", num_added_cls=num_added_cls)
    token_BND = model.video(normalise(tiny_batch.frame, PREPROCESS)).token_BND
    num_globals = 1 + num_added_cls
    places = [*range(num_globals), *(num_globals + 17 * frame for frame in range(3))]
    for number in range(6):
        wanted = torch.stack([nnf.normalize(token_BND[number, place], dim=0) for place in places]).sum(dim=0)
        got = model.encode_video(tiny_batch.frame).video_BD[number]
        torch.testing.assert_close(got, nnf.normalize(wanted, dim=0), rtol=1e-4, atol=1e-5)


def test_uniform_logits_cost_the_mean_of_both_directions():
    same = nnf.normalize(torch.ones(6, 96), dim=-1)
    loss = build("mean_pool").loss(Features(same, same), Rows.of(torch.ones(6, dtype=torch.bool)))["loss"]
    assert loss.item() == pytest.approx(math.log(6), rel=1e-5)


@torch.no_grad()
def test_clamp_keeps_the_factor_between_1_and_100():
    model = build("mean_pool")
    for start, wanted in [(9.0, 100.0), (-3.0, 1.0), (2.0, math.exp(2.0))]:
        model.logit_scale.fill_(start)
        model.clamp()
        assert model.logit_scale.exp().item() == pytest.approx(wanted, rel=1e-5)


def test_settings_that_cannot_work_are_refused():
    config = TwoTowerConfig(backbone=Backbone(name="tiny"), preprocess=Preprocess(size=64))
    with pytest.raises(ValueError, match=r"use preprocess\.size=32"):
        TwoTower(config)
    with pytest.raises(ValueError, match=r"logit_scale_init=5\.0"):
        dataclasses.replace(config, logit_scale_init=5.0)
