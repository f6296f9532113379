"""Intervals equal a slow loop with the same draws; pairs are drawn together; videos are drawn whole."""

import numpy as np
import pytest
import torch

from fpig_core.bootstrap import METRICS, intervals, paired_differences, resampled_metrics
from fpig_core.metrics import summarise_ranks

RNG = np.random.default_rng(5)
RANKS = RNG.integers(1, 30, 23)
BETTER = np.maximum(1, RANKS - RNG.integers(0, 6, 23))
VIDEOS = RNG.integers(100, 109, 23)  # several queries a video
NUM = 40


def slow_resamples(ranks, videos, seed):
    """A list of ranks for each resample: videos drawn one after the other, each with all of its queries."""
    rng, distinct = np.random.default_rng(seed), sorted(set(videos.tolist()))
    for _ in range(NUM):
        drawn = [distinct[i] for i in rng.integers(0, len(distinct), len(distinct))]
        yield [int(rank) for video in drawn for rank, of in zip(ranks, videos, strict=True) if of == video]


@pytest.mark.parametrize("videos", [VIDEOS, np.arange(23)])
def test_metrics_of_resamples_equal_a_slow_loop(videos):
    slow = [summarise_ranks(torch.tensor(ranks)) for ranks in slow_resamples(RANKS, videos, 3)]
    fast = resampled_metrics(RANKS, videos, num_resamples=NUM, seed=3)
    assert tuple(fast) == METRICS
    for name, values in fast.items():
        np.testing.assert_allclose(values, [metrics[name] for metrics in slow], rtol=1e-12)


def test_the_interval_is_the_middle_of_the_resamples():
    values = sorted(summarise_ranks(torch.tensor(ranks))["R@5"] for ranks in slow_resamples(RANKS, VIDEOS, 0))
    low, high = intervals(RANKS, VIDEOS, num_resamples=NUM, level=0.5)["R@5"]
    assert values[9] <= low <= values[10]
    assert values[29] <= high <= values[30]


def test_blocks_of_resamples_leave_no_mark(monkeypatch):
    whole = resampled_metrics(RANKS, VIDEOS, num_resamples=NUM)
    monkeypatch.setattr("fpig_core.bootstrap._MAX_WEIGHTS", 50)
    pieces = resampled_metrics(RANKS, VIDEOS, num_resamples=NUM)
    assert all(np.array_equal(whole[name], pieces[name]) for name in METRICS)


def test_pairs_are_drawn_together():
    found = paired_differences(RANKS, BETTER, VIDEOS, num_resamples=NUM, seed=3)
    slow = [
        summarise_ranks(torch.tensor(second))["MnR"] - summarise_ranks(torch.tensor(first))["MnR"]
        for first, second in zip(slow_resamples(RANKS, VIDEOS, 3), slow_resamples(BETTER, VIDEOS, 3), strict=True)
    ]
    assert found["MnR"].difference == pytest.approx(BETTER.mean() - RANKS.mean())
    assert found["MnR"][1:3] == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])))
    assert found["MnR"].high < 0
    assert found["MnR"].p == pytest.approx(2 / (NUM + 1))


def test_a_system_does_not_differ_from_itself():
    for difference in paired_differences(RANKS, RANKS, VIDEOS, num_resamples=NUM).values():
        assert tuple(difference) == (0, 0, 0, 1)


def test_a_single_rank_has_no_width():
    assert intervals(np.array([2]), np.array([0]), num_resamples=3)["MdR"] == [2, 2]


def test_nothing_to_draw_is_refused():
    with pytest.raises(ValueError, match="got 0 ranks"):
        intervals(np.array([]), np.array([]))
    with pytest.raises(ValueError, match="wanted those of the same queries"):
        paired_differences(RANKS, RANKS[1:], VIDEOS)
