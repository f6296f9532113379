import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor

from fpig_core.losses import contrastive, reconstruction
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
