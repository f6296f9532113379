from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from fpig_core.rows import Noise, Rows, in_micro_batches


@pytest.mark.parametrize("cut", [1, 3, 4, 9])
def test_noise_belongs_to_the_place_and_not_to_the_cut(cut):
    whole = Noise(seed=5).uniform("mask", 9, 4)
    pieces = [Noise(seed=5, first=start).uniform("mask", min(cut, 9 - start), 4) for start in range(0, 9, cut)]
    assert torch.equal(torch.cat(pieces), whole)
    assert torch.equal(Noise(seed=5, first=2).at(4).uniform("mask", 3, 4), whole[6:])


def test_noise_differs_by_name_and_by_seed():
    drawn = [Noise(seed=seed).uniform(name, 4, 8) for seed in (0, 1) for name in ("a", "b")]
    assert len({tuple(x.flatten().tolist()) for x in drawn}) == 4


def test_dropout_keeps_the_expected_value():
    keep = Noise(seed=0).keep("mask", 1000, 100, rate=0.2)
    assert set(keep.unique().tolist()) == {0.0, 1.25}
    assert keep.mean().item() == pytest.approx(1.0, abs=0.01)


def test_mean_over_workers_is_the_mean_over_valid_rows(fake_gather):
    valid, x = torch.tensor([True, False, False, False, True, True]), torch.tensor([1.0, torch.nan, 5, 5, 7, 10])
    meeting = fake_gather(3)

    def work(rank):
        part = slice(2 * rank, 2 * rank + 2)
        return Rows.of(valid[part], gather=meeting(rank), rank=rank).mean(x[part])

    with ThreadPoolExecutor(3) as pool:
        assert torch.stack(list(pool.map(work, range(3)))).mean().item() == pytest.approx(6.0)


def test_placeholders_become_zeros_in_any_shape():
    x = torch.full((3, 2, 2), torch.nan)
    x[1] = 4.0
    clean = Rows.of(torch.tensor([False, True, False])).clean(x)
    assert torch.equal(clean, torch.tensor([0.0, 4.0, 0.0])[:, None, None].expand(3, 2, 2))


class Pair(NamedTuple):
    square: Tensor
    sine: Tensor


@pytest.mark.parametrize("size", [0, 1, 2, 5, 7, 100])
def test_micro_batches_leave_no_mark_and_bound_the_rows_at_once(size):
    x = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    seen = []

    def function(cut):
        seen.append(len(x[cut]))
        return Pair(x[cut] ** 2, x[cut].sin())

    pair = in_micro_batches(function, 7, size=size)
    assert torch.equal(pair.square, x**2)
    loss = (pair.square.sum(dim=0) * pair.sine.sum(dim=0)).sum()
    (got,) = torch.autograd.grad(loss, x)
    (wanted,) = torch.autograd.grad(((x**2).sum(dim=0) * x.sin().sum(dim=0)).sum(), x)
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=0)
    assert max(seen) == (min(size, 7) or 7)
