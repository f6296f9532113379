import dataclasses
import math

import pytest
import torch
import torch.nn.functional as nnf

from fpig_core.backbone import Backbone, build_clip
from fpig_core.eercf import Eercf, EercfConfig, Features, PearsonWeights
from fpig_core.eercf_scores import ScoreWeights, VideoFeatures, text_gated_frames, text_video_score
from fpig_core.normalise import normalise, unit
from fpig_core.preprocess import Preprocess
from fpig_core.rows import Rows

PREPROCESS = Preprocess(num_frames=3, size=32)
CONFIG = EercfConfig(backbone=Backbone(name="tiny", context_length=12), preprocess=PREPROCESS)


def build(**settings) -> Eercf:
    """A model whose learned weights are off their start."""
    torch.manual_seed(0)
    model = Eercf(dataclasses.replace(CONFIG, **settings)).eval()
    with torch.no_grad():
        for weight in (model.text_to_video.weight, model.frame_mix):
            weight.add_(0.2 * torch.randn_like(weight))
    return model


def features(num_samples, *, width=96) -> Features:
    generator = torch.Generator().manual_seed(2)

    def random(*shape):
        return unit(torch.randn(num_samples, *shape, width, dtype=torch.float64, generator=generator)).requires_grad_()

    return Features(random(), random(), random(), random(3), random(3), random(3, 4))


def slow_info_nce(score_BQ):
    num, total = len(score_BQ), torch.zeros((), dtype=torch.float64)
    for i in range(num):
        total = total + score_BQ[i].logsumexp(0) - score_BQ[i, i]
        total = total + score_BQ[:, i].logsumexp(0) - score_BQ[i, i]
    return total / (2 * num)


def slow_pearson(text_BD, x_BD):
    total = torch.zeros((), dtype=torch.float64)
    for text, x in zip(text_BD.T, x_BD.T, strict=True):
        correlation = torch.corrcoef(torch.stack([text, x]))[0, 1]
        total = total + 0.14 * (correlation - 1) ** 2
    return total


@torch.no_grad()
def test_vectors_come_from_clips_own_frames(tiny_batch):
    model = build()
    torch.manual_seed(0)
    clip = build_clip(CONFIG.backbone).eval()
    video = model.encode_video(tiny_batch.frame)
    for number, frame_F3HW in enumerate(tiny_batch.frame):
        frame_FD = torch.stack([clip.visual(frame_3HW[None])[0] for frame_3HW in normalise(frame_F3HW, PREPROCESS)])
        seen_FD = model.temporal(frame_FD[None])[0]
        total_D = torch.stack([nnf.normalize(vector_D, dim=0) for vector_D in seen_FD]).sum(dim=0)
        for got, wanted in [
            (video.frame_BFD[number], nnf.normalize(frame_FD, dim=-1)),
            (video.temporal_BFD[number], nnf.normalize(seen_FD, dim=-1)),
            (video.video_BD[number], nnf.normalize(total_D, dim=0)),
        ]:
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    assert video.patch_BFPD.shape == (6, 3, 16, 96)
    torch.testing.assert_close(video.patch_BFPD.norm(dim=-1), torch.ones(6, 3, 16))


@torch.no_grad()
def test_texts_and_vectors_multiply_to_the_video_score(tiny_batch):
    model = build()
    query, video = model.encode_query(tiny_batch.word), model.encode_video(tiny_batch.frame)
    got = model.encode_text(tiny_batch.word) @ model.columns(video)["vector"].T
    torch.testing.assert_close(got, query["text"] @ model.text_to_video.weight @ video.video_BD.T)
    torch.testing.assert_close(query["text"].norm(dim=-1), torch.ones(6))


@torch.no_grad()
@pytest.mark.parametrize("patches", [True, False])
def test_reranking_picked_pairs_equals_scoring_all_pairs(tiny_batch, patches):
    model = build()
    query, video = model.encode_query(tiny_batch.word), model.encode_video(tiny_batch.frame)
    every_BQ = text_video_score(
        query["text"],
        query["text_to_video"],
        video,
        weights=CONFIG.rerank if patches else dataclasses.replace(CONFIG.rerank, weak_patch=0.0),
        temperatures=CONFIG.temperatures,
        frame_mix_FF=model.frame_mix,
    )
    columns = model.columns(video)
    if not patches:
        columns.pop("patch_vectors")
    first_stage_QB = model.encode_text(tiny_batch.word) @ columns["vector"].T
    b = first_stage_QB.topk(4).indices.flatten()
    q = torch.arange(6).repeat_interleave(4)
    score_n = model.score({key: x[q] for key, x in query.items()}, {key: x[b] for key, x in columns.items()})
    torch.testing.assert_close(score_n, every_BQ[b, q], rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_stored_half_precision_hardly_changes_scores(tiny_batch):
    model = build()
    query, columns = model.encode_query(tiny_batch.word), model.columns(model.encode_video(tiny_batch.frame))
    full = model.score(query, columns)
    with torch.autocast("cpu", torch.bfloat16):
        half = model.score(query, {key: x.half() for key, x in columns.items()})
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=0.0, atol=0.02)


@pytest.mark.parametrize("gate_by", ["paired_caption", "query"])
def test_the_loss_is_that_of_all_pairs(gate_by):
    model, own = build(gate_by=gate_by).double(), features(5)
    rows = Rows.of(torch.ones(5, dtype=torch.bool), micro_batch=2)
    parts = model.loss(own, rows)
    video = VideoFeatures(*own[2:])
    scale = model.logit_scale.exp()
    weak_BQ, strong_BQ = (
        scale
        * text_video_score(
            own.sentence_BD,
            own.text_BD,
            video,
            weights=weights,
            temperatures=CONFIG.temperatures,
            frame_mix_FF=model.frame_mix,
            gate_BD=own.sentence_BD if gate_by == "paired_caption" else None,
        )
        for weights in (CONFIG.weak, CONFIG.strong)
    )
    pooled_BQD = text_gated_frames(own.sentence_BD, video, temperature=CONFIG.temperatures.frame_gate)
    pooled_BD = pooled_BQD.diagonal().T
    wanted = {
        "loss_weak": 0.8 * slow_info_nce(weak_BQ),
        "loss_strong": 0.2 * slow_info_nce(strong_BQ),
        "loss_pearson": 0.001
        * (slow_pearson(own.sentence_BD, own.video_BD) + slow_pearson(own.sentence_BD, pooled_BD)),
    }
    for name, part in wanted.items():
        torch.testing.assert_close(parts[name], part, rtol=1e-6, atol=1e-9)
    total = wanted["loss_weak"] + wanted["loss_strong"] + wanted["loss_pearson"]
    torch.testing.assert_close(parts["loss"], total, rtol=1e-6, atol=1e-9)
    assert parts["scale"].item() == pytest.approx(1 / 0.07)
    inputs = (*own, model.frame_mix, model.logit_scale)
    for got, expected in zip(
        torch.autograd.grad(parts["loss"], inputs), torch.autograd.grad(total, inputs), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("gate_by", ["paired_caption", "query"])
def test_the_gate_learns_nothing(gate_by):
    """The strong score reads frames through the gate alone, so they get no gradient from it."""
    own = features(4)
    model = build(gate_by=gate_by, weak=ScoreWeights(video=1.0), pearson=PearsonWeights()).double()
    loss = model.loss(own, Rows.of(torch.ones(4, dtype=torch.bool)))["loss"]
    frame, temporal = torch.autograd.grad(loss, (own.frame_BFD, own.temporal_BFD), allow_unused=True)
    assert frame is None or not frame.any()
    assert temporal is not None
    assert temporal.any()


def test_placeholders_may_hold_anything():
    model, own = build(gate_by="query").double(), features(4)
    valid = torch.tensor([True, True, False, True])
    spoilt = Features(*(x.detach().clone() for x in own))
    for x in spoilt:
        x[2] = float("nan")
        x.requires_grad_()
    loss = model.loss(spoilt, Rows.of(valid))["loss"]
    kept = model.loss(Features(*(x[valid] for x in own)), Rows.of(torch.ones(3, dtype=torch.bool)))["loss"]
    torch.testing.assert_close(loss, kept)
    for gradient in torch.autograd.grad(loss, spoilt):
        assert not gradient[2].any()
        assert gradient.isfinite().all()


def test_without_any_sample_there_is_no_loss():
    model = build().double()
    loss = model.loss(features(3), Rows.of(torch.zeros(3, dtype=torch.bool)))["loss"]
    gradients = torch.autograd.grad(loss, [model.frame_mix, model.logit_scale])
    assert loss == 0
    assert not any(gradient.any() for gradient in gradients)


@torch.no_grad()
def test_patches_are_kept_only_where_they_count(tiny_batch):
    weak = ScoreWeights(video=0.5, weak_frame=0.5)
    rerank = ScoreWeights(video=0.5, weak_frame=0.8, tib_frame=0.2)
    assert build(weak=weak).features(*tiny_batch).patch_BFPD.numel() == 0
    assert build(weak=weak).encode_video(tiny_batch.frame).patch_BFPD.shape[2] == 16
    model = build(weak=weak, rerank=rerank)
    assert model.encode_video(tiny_batch.frame).patch_BFPD.numel() == 0
    assert model.columns(model.encode_video(tiny_batch.frame)).keys() == set(Eercf.rerank_columns)
    assert model.optional_rerank_columns == ()


@torch.no_grad()
def test_any_number_of_frames_can_be_searched_but_not_reranked(tiny_batch):
    model = build()
    columns = model.columns(model.encode_video(tiny_batch.frame[:, :2]))
    assert columns["vector"].shape == (6, 96)
    with pytest.raises(ValueError, match=r"got videos of 2 frames.*preprocess\.num_frames=3"):
        model.score(model.encode_query(tiny_batch.word), columns)


@torch.no_grad()
def test_clamp_keeps_the_factor_between_1_and_100():
    model = build()
    for start, wanted in [(9.0, 100.0), (-3.0, 1.0), (2.0, math.exp(2.0))]:
        model.logit_scale.fill_(start)
        model.clamp()
        assert model.logit_scale.exp().item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temporal_layers": 0}, "temporal_layers=0"),
        ({"strong_share": -0.1}, r"strong_share=-0\.1"),
        ({"weak": ScoreWeights(weak_frame=1.0)}, "trains the first stage"),
        ({"weak_share": 0.0}, "trains the first stage"),
        ({"logit_scale_init": 5.0}, r"logit_scale_init=5\.0"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **settings)
    with pytest.raises(ValueError, match=r"diagonal=-1\.0"):
        PearsonWeights(diagonal=-1.0)
