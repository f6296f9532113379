import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor

from fpig_core.losses import contrastive, pearson, reconstruction
from fpig_core.rows import Rows

SCALE = 7.0


def features(num_samples: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    text, video, pseudo = torch.randn(3, num_samples, 6, dtype=torch.float64, generator=generator).unbind()
    scale = torch.tensor(SCALE, dtype=torch.float64)
    text, video = nnf.normalize(text, dim=-1), nnf.normalize(video, dim=-1)
    return text.requires_grad_(), video.requires_grad_(), pseudo.requires_grad_(), scale.requires_grad_()


def total(text, video, pseudo, scale, valid, **across):
    rows = Rows.of(valid, **across)
    loss = contrastive(text, video, scale=scale, rows=rows, reduction="sum")
    return loss + 0.7 * reconstruction(pseudo, text, rows=rows)


def slow_total(text, video, pseudo, scale):
    """The equations, sample by sample."""
    num, result = len(text), torch.zeros((), dtype=torch.float64)
    for i in range(num):
        logit = [scale * text[i] @ video[j] for j in range(num)]
        result = result + (torch.stack(logit).logsumexp(0) - logit[i]) / num
        logit = [scale * video[i] @ text[j] for j in range(num)]
        result = result + (torch.stack(logit).logsumexp(0) - logit[i]) / num
        cosine = pseudo[i] @ text[i] / (pseudo[i].norm() * text[i].norm())
        result = result + 0.7 * (2 - 2 * cosine) / num
    return result


def test_equals_the_equations_sample_by_sample():
    inputs = features(5)
    fast, slow = total(*inputs, torch.ones(5, dtype=torch.bool)), slow_total(*inputs)
    torch.testing.assert_close(fast, slow, rtol=1e-6, atol=1e-7)
    for got, wanted in zip(torch.autograd.grad(fast, inputs), torch.autograd.grad(slow, inputs), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-7)


VALID = {
    "all": [True] * 8,
    "some": [True, False, True, True, False, True, True, False],
    "one worker idle": [True, True, False, False, True, False, True, True],
    "none": [False] * 8,
}


@pytest.mark.parametrize("num_workers", [1, 2, 4])
@pytest.mark.parametrize("case", VALID)
def test_mean_over_workers_is_the_loss_of_the_valid_samples(case, num_workers, fake_gather):
    """Both the loss and all gradients; the oracle has never seen the placeholders nor the workers."""
    inputs, valid = features(8), torch.tensor(VALID[case])
    meeting = fake_gather(num_workers)
    parts = [
        [x.chunk(num_workers)[rank] for x in (*inputs[:3], valid)] for rank in range(num_workers)
    ]  # scale is a parameter: every worker has it whole

    def work(rank):
        text, video, pseudo, valid_B = parts[rank]
        return total(text, video, pseudo, inputs[3], valid_B, gather=meeting(rank), rank=rank)

    with ThreadPoolExecutor(num_workers) as pool:
        mean = torch.stack(list(pool.map(work, range(num_workers)))).mean()
    gradients = torch.autograd.grad(mean, inputs)
    if valid.any():
        text, video, pseudo, scale = inputs
        wanted = slow_total(text[valid], video[valid], pseudo[valid], scale)
        wanted_gradients = torch.autograd.grad(wanted, inputs)
    else:
        wanted, wanted_gradients = torch.zeros(()).double(), [torch.zeros_like(x) for x in inputs]
    torch.testing.assert_close(mean, wanted, rtol=1e-6, atol=1e-7)
    for got, expected in zip(gradients, wanted_gradients, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-7)


def test_placeholders_may_hold_anything():
    text, video, pseudo, scale = features(4)
    valid = torch.tensor([True, True, False, True])
    spoil = torch.where(valid, 0.0, float("nan")).double()[:, None]
    spoilt = [(x.detach() + spoil).requires_grad_() for x in (text, video, pseudo)]
    loss = total(spoilt[0], spoilt[1], spoilt[2], scale, valid)
    torch.testing.assert_close(loss, total(text, video, pseudo, scale, valid))
    for gradient in torch.autograd.grad(loss, spoilt):
        assert torch.equal(gradient[2], torch.zeros(6, dtype=torch.float64))
        assert gradient.isfinite().all()


@pytest.mark.parametrize(("reduction", "wanted"), [("sum", 2 * math.log(8)), ("mean", math.log(8))])
def test_uniform_logits_give_the_logarithm_of_the_batch(reduction, wanted):
    same = nnf.normalize(torch.ones(8, 6), dim=-1)
    rows = Rows.of(torch.ones(8, dtype=torch.bool))
    loss = contrastive(same, same, scale=torch.tensor(SCALE), rows=rows, reduction=reduction)
    assert loss.item() == pytest.approx(wanted, rel=1e-6)


def test_parallel_pseudo_queries_lose_nothing_and_opposite_ones_four():
    text = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    rows = Rows.of(torch.ones(4, dtype=torch.bool))
    assert reconstruction(3 * text, text, rows=rows).item() == pytest.approx(0, abs=1e-6)
    assert reconstruction(-text, text, rows=rows).item() == pytest.approx(4, rel=1e-6)


def test_half_precision_features_are_lifted_even_under_autocast():
    text, video, pseudo, scale = (x.detach().bfloat16() for x in features(4))
    valid = torch.ones(4, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        inside = total(text, video, pseudo, scale, valid)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, total(text.float(), video.float(), pseudo.float(), scale.float(), valid))


PEARSON = {"diagonal_weight": 0.14, "off_diagonal_weight": 0.03}


def slow_pearson(text, x, *, diagonal_weight, off_diagonal_weight):
    """The equations, dimension by dimension."""
    num, width = text.shape

    def standardised(column):
        mean = sum(column) / num
        return [(value - mean) / (sum((each - mean) ** 2 for each in column) / num).sqrt() for value in column]

    text_columns, x_columns = ([standardised(y[:, d]) for d in range(width)] for y in (text, x))
    result = torch.zeros((), dtype=torch.float64)
    for i in range(width):
        for j in range(width):
            correlation = sum(a * b for a, b in zip(text_columns[i], x_columns[j], strict=True)) / num
            part = diagonal_weight * (correlation - 1) ** 2 if i == j else off_diagonal_weight * correlation**2
            result = result + part
    return result


@pytest.mark.parametrize("num_workers", [1, 2, 4])
@pytest.mark.parametrize("case", VALID)
def test_pearson_correlates_the_valid_samples_of_all_workers(case, num_workers, fake_gather):
    text, video, _, _ = features(8)
    valid = torch.tensor(VALID[case])
    meeting = fake_gather(num_workers)
    parts = [[x.chunk(num_workers)[rank] for x in (text, video, valid)] for rank in range(num_workers)]

    def work(rank):
        rows = Rows.of(parts[rank][2], gather=meeting(rank), rank=rank)
        return pearson(parts[rank][0], parts[rank][1], rows=rows, **PEARSON)

    with ThreadPoolExecutor(num_workers) as pool:
        mean = torch.stack(list(pool.map(work, range(num_workers)))).mean()
    gradients = torch.autograd.grad(mean, (text, video))
    if valid.any():
        wanted = slow_pearson(text[valid], video[valid], **PEARSON)
        wanted_gradients = torch.autograd.grad(wanted, (text, video))
    else:
        wanted, wanted_gradients = torch.zeros(()).double(), [torch.zeros_like(x) for x in (text, video)]
    torch.testing.assert_close(mean, wanted, rtol=1e-6, atol=1e-9)
    for got, expected in zip(gradients, wanted_gradients, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-9)


def test_pearson_is_zero_for_equal_inputs_and_blind_to_shift_and_stretch():
    text, video, _, _ = features(6)
    rows = Rows.of(torch.ones(6, dtype=torch.bool))
    only_diagonal = {"diagonal_weight": 0.14, "off_diagonal_weight": 0.0}
    assert pearson(text, text, rows=rows, **only_diagonal).item() == pytest.approx(0, abs=1e-20)
    assert pearson(text, -text, rows=rows, **only_diagonal).item() == pytest.approx(0.14 * 6 * 4)
    stretch, shift = torch.rand(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.5
    torch.testing.assert_close(
        pearson(text, stretch * video + shift, rows=rows, **PEARSON), pearson(text, video, rows=rows, **PEARSON)
    )


def test_pearson_of_placeholders_and_of_dimensions_without_spread():
    text, video, _, _ = features(5)
    valid = torch.tensor([True, True, False, True, True])
    with torch.no_grad():
        video[:, 1] = 0.3
        video[2] = float("nan")
    loss = pearson(text, video, rows=Rows.of(valid), **PEARSON)
    gradients = torch.autograd.grad(loss, (text, video))
    varied = [0, 2, 3, 4, 5]
    without = pearson(
        text[:, varied], video[:, varied], rows=Rows.of(valid), diagonal_weight=0.14, off_diagonal_weight=0
    )
    torch.testing.assert_close(
        pearson(text, video, rows=Rows.of(valid), diagonal_weight=0.14, off_diagonal_weight=0), without + 0.14
    )
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert not gradients[1][:, 1].any()
    assert not any(gradient[2].any() for gradient in gradients)


def test_pearsons_gradients_are_those_of_finite_differences():
    text, video, _, _ = features(4)
    rows = Rows.of(torch.tensor([True, True, False, True]))
    assert torch.autograd.gradcheck(lambda *inputs: pearson(*inputs, rows=rows, **PEARSON), (text, video))


def test_pearson_lifts_half_precision_even_under_autocast():
    text, video, _, _ = (x.detach().bfloat16() for x in features(4))
    rows = Rows.of(torch.ones(4, dtype=torch.bool))
    with torch.autocast("cpu", torch.bfloat16):
        inside = pearson(text, video, rows=rows, **PEARSON)
    torch.testing.assert_close(inside, pearson(text.float(), video.float(), rows=rows, **PEARSON))
