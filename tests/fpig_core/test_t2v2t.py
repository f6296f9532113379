import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as nnf

from fpig_core.backbone import Backbone, tokenize
from fpig_core.hard_negatives import draw_negatives
from fpig_core.masked_words import is_word
from fpig_core.models import check_config
from fpig_core.preprocess import Preprocess
from fpig_core.rows import Noise, Rows
from fpig_core.t2v2t import T2V2T, T2V2TConfig
from fpig_core.training_step import TrainingStep

KINDS = ["bypass", "naive", "unidirectional"]
ALL = torch.ones(6, dtype=torch.bool)
SOME = torch.tensor([True, True, False, True, True, False])
CONFIG = T2V2TConfig(
    backbone=Backbone(name="tiny", context_length=12),
    preprocess=Preprocess(num_frames=3, size=32),
    num_layers=2,
    fusion_width=0,
)


def make(**change) -> T2V2T:
    torch.manual_seed(0)
    return T2V2T(dataclasses.replace(CONFIG, **change))


def spoil(features, valid):
    """Placeholders that hold NaN wherever they can."""
    return features._make(
        x.masked_fill(~valid.view(-1, *[1] * (x.ndim - 1)), float("nan")) if x.is_floating_point() else x
        for x in features
    )


def assert_same(got, wanted):
    torch.testing.assert_close(got[0], wanted[0], rtol=1e-6, atol=0)
    assert all(torch.allclose(x, y, rtol=1e-6, atol=1e-10) for x, y in zip(got[1], wanted[1], strict=True))


@pytest.mark.parametrize("mlm_weight", [0.0, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns_under_every_fusion(tiny_batch, kind, mlm_weight):
    model = make(fusion=kind, mlm_weight=mlm_weight)
    losses = TrainingStep(model)(*tiny_batch, ALL, noise=Noise(seed=1))
    losses["loss"].backward()
    assert losses["loss"].isfinite()
    assert ("loss_masked_words" in losses) == bool(mlm_weight)
    still = [name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert not still


def slow_loss(model, batch, valid, noise):
    """Pair by pair and word by word, of the valid rows alone; negatives and hidden words as drawn elsewhere."""
    features = model.features(*batch, noise=noise)
    token, scale, kept = features.token_BFSV, model.logit_scale.exp(), valid.nonzero()[:, 0].tolist()
    to_video = scale * features.text_BD @ features.video_BD.T
    to_text = to_video.T
    rows = Rows.of(valid, noise=noise)
    video = draw_negatives(to_video, rows=rows, name="negative_video").index_B.tolist()
    text = draw_negatives(to_text, rows=rows, name="negative_text").index_B.tolist()

    def fused(words, of_text, of_video):
        length = int(is_word(batch.word)[of_text].sum())
        every = torch.ones(1, length, dtype=torch.bool)
        return model.fusion(words[of_text : of_text + 1, :length], token[of_video : of_video + 1], every)[0]

    contrastive, matching, hidden = [], [], []
    for row in kept:
        for score in (to_video, to_text):
            contrastive.append(score[row, kept].logsumexp(0) - score[row, row])
        for of_text, of_video, label in [(row, row, 1), (row, video[row], 0), (text[row], row, 0)]:
            logit = model.match(fused(features.word_BLW, of_text, of_video)[0])
            matching.append(-logit.log_softmax(0)[label])
        for place in features.is_hidden_BL[row].nonzero()[:, 0].tolist():
            logit = model.guess(fused(features.hidden_word_BLW, row, row)[place])
            hidden.append(-logit.log_softmax(0)[batch.word[row, place]])
    parts = [torch.stack(part).mean() for part in (contrastive, matching, hidden)]
    config = model.config
    return config.vtc_weight * parts[0] + config.vtm_weight * parts[1] + config.mlm_weight * parts[2]


@pytest.mark.parametrize("kind", KINDS)
def test_loss_is_that_of_single_pairs_and_words(tiny_batch, kind):
    model = make(fusion=kind, mlm_weight=0.3, vtm_weight=0.7, vtc_weight=1.2).double()
    parameters, noise = list(model.parameters()), Noise(seed=2)
    loss = model.loss(model.features(*tiny_batch, noise=noise), Rows.of(SOME, noise=noise))["loss"]
    slow = slow_loss(model, tiny_batch, SOME, noise)
    assert_same((loss, torch.autograd.grad(loss, parameters)), (slow, torch.autograd.grad(slow, parameters)))


@pytest.mark.parametrize("num_workers", [2, 3])
def test_placeholders_of_other_workers_may_hold_anything(tiny_batch, num_workers, fake_gather):
    """Even NaN; loss and gradients are those of one worker that never saw any."""
    model, noise = make(mlm_weight=0.5).double(), Noise(seed=4)
    meeting, parameters = fake_gather(num_workers), list(model.parameters())

    def work(rank):
        frame, word, valid_B = (x.chunk(num_workers)[rank] for x in (*tiny_batch, SOME))
        here = noise.at(rank * len(valid_B))
        rows = Rows.of(valid_B, gather=meeting(rank), rank=rank, noise=here, micro_batch=2)
        return model.loss(spoil(model.features(frame, word, noise=here), valid_B), rows)["loss"]

    with ThreadPoolExecutor(num_workers) as pool:
        mean = torch.stack(list(pool.map(work, range(num_workers)))).mean()
    whole = model.loss(model.features(*tiny_batch, noise=noise), Rows.of(SOME, noise=noise))["loss"]
    assert_same((mean, torch.autograd.grad(mean, parameters)), (whole, torch.autograd.grad(whole, parameters)))


@pytest.mark.parametrize("num_valid", [0, 1])
def test_without_a_negative_only_the_own_pair_counts(tiny_batch, num_valid):
    model, noise = make(mlm_weight=1.0), Noise(seed=0)
    features = spoil(model.features(*tiny_batch, noise=noise), torch.arange(6) < num_valid)
    losses = model.loss(features, Rows.of(torch.arange(6) < num_valid, noise=noise))
    losses["loss"].backward()
    own = model.match(model.fusion(features.word_BLW[:1], features.token_BFSV[:1], is_word(tiny_batch.word)[:1])[0, 0])
    wanted = -own.log_softmax(0)[1].item() if num_valid else 0.0
    assert losses["loss_matching"].item() == pytest.approx(wanted, rel=1e-5)
    assert losses["loss"].isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_without_noise_no_word_is_hidden(tiny_batch):
    model = make(mlm_weight=1.0)
    first, second = (TrainingStep(model)(*tiny_batch, ALL) for _ in range(2))
    assert "loss_masked_words" not in first
    assert torch.equal(first["loss"], second["loss"])


@torch.no_grad()
def test_the_first_stage_pools_cls_over_frames(tiny_batch):
    model = make().eval()
    columns = model.columns(model.encode_video(tiny_batch.frame))
    assert columns["visual_tokens"].shape == (6, 3, 17, 96)
    for number in range(6):
        cls = [columns["visual_tokens"][number, frame, 0] for frame in range(3)]
        wanted = nnf.normalize(model.video_projection((cls[0] + cls[1] + cls[2]) / 3), dim=0)
        torch.testing.assert_close(columns["vector"][number], wanted)
    text = model.encode_text(tiny_batch.word)
    assert text.shape == columns["vector"].shape == (6, 256)
    torch.testing.assert_close(text.norm(dim=-1), torch.ones(6))


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_pair_is_judged_alone(tiny_batch, kind):
    """Neither the pairs beside it, nor a longer padding, nor float16 on the way make a difference."""
    model = make(fusion=kind).eval()
    query, video = model.encode_query(tiny_batch.word), model.columns(model.encode_video(tiny_batch.frame))
    left, right = torch.cartesian_prod(torch.arange(6), torch.arange(6)).unbind(1)
    video = {name: video[name] for name in model.rerank_columns}
    score = model.score({name: x[left] for name, x in query.items()}, {name: x[right] for name, x in video.items()})
    longer = model.encode_query(nnf.pad(tiny_batch.word, (0, 5)))
    for start in range(0, 36, 5):
        cut = slice(start, start + 5)
        pieces = {name: x[right[cut]].half() for name, x in video.items()}
        part = model.score({name: x[left[cut]] for name, x in longer.items()}, pieces)
        torch.testing.assert_close(part, score[cut], rtol=1e-3, atol=2e-3)
        pieces = {name: x[right[cut]] for name, x in video.items()}
        part = model.score({name: x[left[cut]] for name, x in query.items()}, pieces)
        torch.testing.assert_close(part, score[cut], rtol=1e-5, atol=1e-5)
    assert score.std() > 1e-3


@torch.no_grad()
def test_the_score_is_the_logit_of_a_match(tiny_batch):
    model = make().eval()
    query, video = model.encode_query(tiny_batch.word), model.columns(model.encode_video(tiny_batch.frame))
    before = model.score(query, video)
    model.match.bias.add_(torch.tensor([5.0, 2.0]))
    torch.testing.assert_close(model.score(query, video), before + 2)


@pytest.mark.slow
def test_fusion_learns_which_pairs_match(tiny_batch):
    """On fixed features of six videos, each of one colour: chance has a loss of 0.64, and ranks one in six right."""
    model = make(fusion_width=48)
    colour = torch.randint(0, 256, (6, 1, 3, 1, 1), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    with torch.no_grad():
        features = model.features(colour.expand(6, 3, 3, 32, 32), tiny_batch.word)
    optimiser = torch.optim.AdamW([*model.fusion.parameters(), *model.match.parameters()], lr=1e-3)
    for seed in range(150):
        optimiser.zero_grad()
        model.loss(features, Rows.of(ALL, noise=Noise(seed=seed)))["loss_matching"].backward()
        optimiser.step()
    with torch.no_grad():
        losses = model.loss(features, Rows.of(ALL))
        query = model.encode_query(tiny_batch.word)
        video = {"visual_tokens": features.token_BFSV}
        score = [model.score({k: x[row].expand(6, *x[row].shape) for k, x in query.items()}, video) for row in range(6)]
    assert losses["loss_matching"] < 0.2
    assert torch.stack(score).argmax(dim=1).tolist() == list(range(6))


@torch.no_grad()
def test_clamp_keeps_the_temperature_in_its_range():
    model = make()
    assert model.logit_scale.shape == (1,)
    assert 1 / model.logit_scale.exp().item() == pytest.approx(0.07, rel=1e-5)
    for temperature, wanted in [(0.0001, 0.001), (2.0, 0.5), (0.1, 0.1)]:
        model.logit_scale.fill_(-math.log(temperature))
        model.clamp()
        assert 1 / model.logit_scale.exp().item() == pytest.approx(wanted, rel=1e-5)


def test_new_is_what_clip_did_not_bring():
    model = make()
    backbone = {id(parameter) for parameter, _ in model.backbone_parameters()}
    new = {name.split(".")[0] for name, parameter in model.named_parameters() if id(parameter) not in backbone}
    assert new == {"text_projection", "video_projection", "fusion", "match", "logit_scale"}


def test_the_defaults_fit_together():
    check_config(T2V2TConfig())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preprocess": Preprocess(num_frames=3, size=64)}, "use preprocess.size=32"),
        ({"num_heads": 7}, "num_heads=7, which does not divide .* 96; use fusion_width=98"),
        ({"num_layers": 0}, "num_layers=0"),
        ({"temperature_init": 0.6}, "temperature_init=0.6"),
        ({"vtm_weight": 0.0}, "vtm_weight=0.0"),
        ({"mlm_share": 0.0}, "mlm_share=0.0"),
        ({"negative_hardness": -1.0}, "negative_hardness=-1.0"),
    ],
)
def test_settings_that_cannot_work_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        make(**change)


def test_other_words_in_the_padding_change_no_judgement(tiny_batch):
    model = make().eval()
    word = tokenize(["a cat", "two dots"], context_length=12)
    other = torch.where(is_word(word), word, 1234)
    video = model.columns(model.encode_video(tiny_batch.frame[:2]))
    assert torch.equal(model.score(model.encode_query(word), video), model.score(model.encode_query(other), video))


@torch.no_grad()
@pytest.mark.parametrize(("hardness", "same"), [(0.0, True), (1.0, False)])
def test_hardness_says_how_far_negatives_follow_similarity(tiny_batch, hardness, same):
    """The scale of the similarities acts on matching through the draws alone."""
    model, rows = make(negative_hardness=hardness), Rows.of(torch.ones(6, dtype=torch.bool), noise=Noise(seed=3))
    losses = []
    for scale in (math.log(2), math.log(1000)):
        model.logit_scale.fill_(scale)
        losses.append(model.loss(model.features(*tiny_batch), rows)["loss_matching"].item())
    assert (losses[0] == losses[1]) is same
