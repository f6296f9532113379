"""What is drawn as kept is what was kept."""

import numpy as np
import pytest

from fpig_core.drawing import TokenPicture, draw_contact_sheet, fade_unkept, kept_patches


def test_token_numbers_become_patches():
    """2 global tokens, then 3 frames of 1 + 4 tokens."""
    kept = kept_patches(np.array([3, 11, 16]), num_frames=3, num_patches=4, num_globals=2)
    assert np.argwhere(kept).tolist() == [[0, 0], [1, 3], [2, 3]]


@pytest.mark.parametrize("index", [1, 2, 17])
def test_tokens_that_are_no_patches_are_noticed(index):
    with pytest.raises(AssertionError):
        kept_patches(np.array([index]), num_frames=3, num_patches=4, num_globals=2)


def test_kept_patches_are_untouched_and_others_are_not():
    frame = np.random.default_rng(0).integers(0, 200, (8, 8, 3)).astype(np.uint8)
    drawn = fade_unkept(frame, np.array([True, False, False, False]))
    np.testing.assert_array_equal(drawn[:4, :4], frame[:4, :4])
    assert (drawn[4:] > frame[4:]).all()
    assert (drawn[:4, 4:] > frame[:4, 4:]).all()


@pytest.mark.parametrize("num_frames", [1, 12, 30])
def test_a_sheet_holds_every_video(num_frames):
    picture = TokenPicture(
        title="a",
        caption="some words " * 40,
        frame_F3HW=np.zeros((num_frames, 3, 32, 32), np.uint8),
        kept_FP=np.ones((num_frames, 16), bool),
    )
    one, two = (draw_contact_sheet([picture] * n, heading="kept") for n in (1, 2))
    assert two.width == one.width
    assert two.height > 1.5 * one.height - 60
