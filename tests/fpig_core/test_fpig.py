import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as nnf

from fpig_core.backbone import Backbone, TextTower
from fpig_core.fpig import Features, FPig, FPigConfig
from fpig_core.models import Retriever, Trainable, build_model, model_config_from_dict, model_config_to_dict
from fpig_core.normalise import normalise
from fpig_core.preprocess import Preprocess
from fpig_core.rows import Rows

SETTINGS = {
    "reference": {},
    "older code": {"use_bos": False},
    "newer code": {"train_bos_eos": False, "project": False},
    "cls asks": {"interaction_query": "cls"},
    "residual": {"residual": "add"},
    "mixed residual": {"residual": "learned_mix", "added_cls_init": "cls", "selector_reduce": "mean"},
    "no added tokens, fixed target": {"num_added_cls": 0, "detach_target": True},
}


def everything(num_rows: int) -> Rows:
    return Rows.of(torch.ones(num_rows, dtype=torch.bool))


@pytest.mark.parametrize("name", SETTINGS)
def test_every_parameter_learns_under_every_setting(tiny_config, tiny_batch, name):
    torch.manual_seed(0)
    model = FPig(dataclasses.replace(tiny_config, **SETTINGS[name]))
    loss = model.loss(model.features(*tiny_batch), everything(6))["loss"]
    loss.backward()
    assert loss.isfinite()
    still = [key for key, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    # zero-started biases of the softmax's keys shift all logits alike and never learn
    assert set(still) <= {"interaction.key.bias"}


@torch.no_grad()
@pytest.mark.parametrize(("backbone", "num_tokens"), [("ViT-B-32", 604), ("ViT-B-16", 2368)])
def test_sizes_are_those_of_the_reference(backbone, num_tokens):
    """Counted on the device without memory: 16 keys of the interaction, 34 places in the generator."""
    with torch.device("meta"):
        model = FPig(FPigConfig(backbone=Backbone(name=backbone))).eval()
        seen = {}
        for name, part in (("interaction", model.interaction), ("transformer", model.generator.transformer)):
            part.register_forward_pre_hook(lambda _, inputs, name=name: seen.__setitem__(name, inputs))
        video = model.encode_video(torch.zeros(2, 12, 3, 224, 224, dtype=torch.uint8))
    assert model.video.num_tokens(12) == video.selection.score_BN.shape[1] == num_tokens
    assert seen["interaction"][1].shape == (2, 16, 512)
    assert seen["transformer"][0].shape == (2, 34, 512)
    assert video.selection.index_BK.shape == (2, 16)


@torch.no_grad()
def test_the_parts_meet_as_the_method_says(tiny_fpig, tiny_batch):
    """CLS, added_cls, frame_cls, chosen patches make the pseudo-query; all but the patches meet it."""
    config, video = tiny_fpig.config, tiny_fpig.encode_video(tiny_batch.frame)
    token_BND, attention_BHN = tiny_fpig.video(normalise(tiny_batch.frame, config.preprocess))
    frame_cls = [4 + 17 * frame for frame in range(3)]
    summary_BSD = token_BND[:, [0, 1, 2, 3, *frame_cls]]
    patches = [number for number in range(4, 4 + 3 * 17) if number not in frame_cls]
    for number in range(6):
        score = attention_BHN[number].amax(dim=0)
        best = sorted(patches, key=lambda place: -score[place].item())[:5]
        assert video.selection.index_BK[number].tolist() == best
        told_SD = torch.cat([summary_BSD[number], token_BND[number, best]])
        query_D = tiny_fpig.generator(told_SD[None])[0]
        fused_D = tiny_fpig.interaction(query_D[None], summary_BSD[number][None])[0]
        torch.testing.assert_close(video.pseudo_query_BD[number], query_D, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(video.fused_BD[number], nnf.normalize(fused_D, dim=0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(video.unfused_BD[number], nnf.normalize(token_BND[number, 0], dim=0))


@torch.no_grad()
def test_asked_for_all_patches_it_keeps_exactly_those(tiny_config, tiny_batch):
    torch.manual_seed(0)
    selection = FPig(dataclasses.replace(tiny_config, num_selected=48)).encode_video(tiny_batch.frame).selection
    patches = [4 + 17 * frame + 1 + place for frame in range(3) for place in range(16)]
    assert all(sorted(kept) == patches for kept in selection.index_BK.tolist())


@torch.no_grad()
def test_a_vector_does_not_depend_on_its_batch(tiny_fpig, tiny_batch):
    together = tiny_fpig.encode_video(tiny_batch.frame).fused_BD
    alone = torch.cat([tiny_fpig.encode_video(frame[None]).fused_BD for frame in tiny_batch.frame])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together.norm(dim=-1), torch.ones(6))


@torch.no_grad()
def test_text_vectors_are_those_of_clip(tiny_fpig, tiny_clip, tiny_batch):
    tiny_fpig.text = TextTower(tiny_clip)
    padded = nnf.pad(tiny_batch.word, (0, 77 - tiny_batch.word.shape[1]))
    wanted = tiny_clip.eval().encode_text(padded, normalize=True)
    torch.testing.assert_close(tiny_fpig.encode_text(tiny_batch.word), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_workers", [2, 3])
def test_workers_get_the_loss_and_gradients_of_one(tiny_fpig, tiny_batch, num_workers, fake_gather):
    """Every worker encodes its own part; the last sample is a placeholder."""
    model = tiny_fpig.double()
    valid = torch.tensor([True] * 5 + [False])
    meeting = fake_gather(num_workers)

    def work(rank):
        frame, word, valid_B = (x.chunk(num_workers)[rank] for x in (*tiny_batch, valid))
        rows = Rows.of(valid_B, gather=meeting(rank), rank=rank)
        return model.loss(model.features(frame, word), rows)["loss"]

    with ThreadPoolExecutor(num_workers) as pool:
        mean = torch.stack(list(pool.map(work, range(num_workers)))).mean()
    whole = model.loss(model.features(tiny_batch.frame[:5], tiny_batch.word[:5]), everything(5))["loss"]
    torch.testing.assert_close(mean, whole, rtol=1e-6, atol=0)
    parameters = list(model.parameters())
    pairs = zip(torch.autograd.grad(mean, parameters), torch.autograd.grad(whole, parameters), strict=True)
    assert all(torch.allclose(got, wanted, rtol=1e-6, atol=1e-8) for got, wanted in pairs)


def test_loss_is_the_weighted_sum_of_its_parts(tiny_config, tiny_batch):
    model = FPig(dataclasses.replace(tiny_config, recon_weight=0.25))
    parts = model.loss(model.features(*tiny_batch), everything(6))
    wanted = parts["loss_contrastive"] + 0.25 * parts["loss_reconstruction"]
    torch.testing.assert_close(parts["loss"], wanted)


def test_uniform_logits_cost_both_directions_in_full(tiny_fpig):
    same = nnf.normalize(torch.ones(6, 96), dim=-1)
    parts = tiny_fpig.loss(Features(same, same, same), everything(6))
    assert parts["loss_contrastive"].item() == pytest.approx(2 * math.log(6), rel=1e-5)


@pytest.mark.parametrize("detach_target", [False, True])
def test_the_target_of_the_reconstruction_can_stand_still(tiny_config, detach_target):
    model = FPig(dataclasses.replace(tiny_config, detach_target=detach_target))
    text = nnf.normalize(torch.randn(4, 96, generator=torch.Generator().manual_seed(0)), dim=-1).requires_grad_()
    other = torch.randn(4, 96, generator=torch.Generator().manual_seed(1))
    parts = model.loss(Features(text, other, other), everything(4))
    assert parts["loss_reconstruction"].requires_grad is not detach_target


@torch.no_grad()
def test_clamp_keeps_the_factor_between_1_and_200(tiny_fpig):
    for start, wanted in [(9.0, 200.0), (-3.0, 1.0), (2.0, math.exp(2.0))]:
        tiny_fpig.logit_scale.fill_(start)
        tiny_fpig.clamp()
        assert tiny_fpig.logit_scale.exp().item() == pytest.approx(wanted, rel=1e-5)


def test_half_precision_stays_near_full_precision(tiny_fpig, tiny_batch):
    full = tiny_fpig.features(*tiny_batch)
    with torch.autocast("cpu", torch.bfloat16):
        half = tiny_fpig.features(*tiny_batch)
        loss = tiny_fpig.loss(half, everything(6))["loss"]
    loss.backward()
    assert loss.dtype == half.video_BD.dtype == torch.float32
    assert (full.text_BD * half.text_BD).sum(dim=-1).min() > 0.999
    assert all(parameter.grad.isfinite().all() for parameter in tiny_fpig.parameters())


def test_it_is_both_a_retriever_and_trainable(tiny_fpig):
    assert isinstance(tiny_fpig, Retriever)
    assert isinstance(tiny_fpig, Trainable)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preprocess": Preprocess(num_frames=3, size=64)}, "use preprocess.size=32"),
        ({"num_selected": 49}, "a video has 48 patches"),
        ({"preprocess": Preprocess(num_frames=70, size=32)}, "CLIP has 77"),
        ({"interaction_temperature": 0.0}, "interaction_temperature=0.0"),
        ({"logit_scale_init": 6.0}, "logit_scale_init=6.0"),
    ],
)
def test_settings_that_cannot_work_are_refused(tiny_config, change, message):
    with pytest.raises(ValueError, match=message):
        FPig(dataclasses.replace(tiny_config, **change))


def test_configs_survive_a_round_trip(tiny_config):
    changed = dataclasses.replace(tiny_config, residual="add", dropout=0.0)
    assert model_config_from_dict(model_config_to_dict(changed)) == changed
    assert build_model(changed).config == FPig(changed).config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "fpig", "droput": 0.1}, "unknown settings droput"),
        ({"method": "fpig", "backbone": {"nam": "tiny"}}, "fpig.backbone: got unknown settings nam"),
        ({"method": "nope"}, "method='nope', wanted one of fpig"),
        ({"method": "fpig", "num_selected": "5"}, "fpig.num_selected: got '5', wanted int"),
        ({"method": "fpig", "use_bos": 1}, "fpig.use_bos: got 1, wanted bool"),
        ({"method": "fpig", "residual": "some"}, "fpig.residual"),
        ({"method": "fpig", "preprocess": {"mean": [0.5, 0.5]}}, "fpig.preprocess.mean"),
        ([], "wanted a group of settings"),
    ],
)
def test_wrong_configs_are_refused_by_name(values, message):
    with pytest.raises(ValueError, match=message):
        model_config_from_dict(values)
