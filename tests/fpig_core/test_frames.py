"""The frame policies, by the numbers of the reference."""

import numpy as np
import pytest

from fpig_core.frames import jittered_indices, uniform_indices


@pytest.mark.parametrize(
    ("num_available", "num_frames", "wanted"),
    [
        (12, 12, list(range(12))),
        (23, 12, list(range(0, 24, 2))),
        (111, 12, list(range(0, 111, 10))),
        (3, 5, [0, 0, 1, 2, 2]),
        (1, 4, [0] * 4),
        (9, 1, [0]),
    ],
)
def test_frames_are_spread_evenly_over_the_whole_video(num_available, num_frames, wanted):
    assert uniform_indices(num_available, num_frames).tolist() == wanted


@pytest.mark.parametrize("num_available", [12, 13, 40, 300])
def test_the_ends_are_drawn_from_the_first_and_the_last_interval(num_available):
    """Each place of both intervals is drawn, and nothing outside of them; between the ends frames are spread evenly."""
    interval, last = num_available // 11, num_available - 1
    draws = [jittered_indices(num_available, 12, np.random.default_rng(seed)) for seed in range(1000)]
    assert {int(draw[0]) for draw in draws} == set(range(interval + 1))
    assert {int(draw[-1]) for draw in draws} == set(range(last - interval, last + 1))
    for draw in draws:
        place = [draw[0] + number * (draw[-1] - draw[0]) / 11 for number in range(12)]
        assert np.abs(draw - place).max() <= 0.5


@pytest.mark.parametrize(("num_available", "num_frames"), [(1, 1), (1, 12), (7, 12), (2, 2), (3, 2), (30, 1)])
def test_short_videos_give_as_many_frames_in_order(num_available, num_frames):
    for seed in range(50):
        draw = jittered_indices(num_available, num_frames, np.random.default_rng(seed))
        assert len(draw) == num_frames
        assert (np.diff(draw) >= 0).all()
        assert 0 <= draw[0] <= draw[-1] < num_available


def test_a_video_without_frames_is_refused():
    with pytest.raises(ValueError, match="got 0 frames"):
        uniform_indices(0, 4)
