"""The sheet shows the frames it was given, unchanged and in their places, whatever the texts are."""

import numpy as np
import pytest

from fpig_core.drawing import GAP, MARGIN
from fpig_core.thumbnails import CARDS_A_LINE, FRAME_PX, Thumbnail, draw_thumbnails


def make_thumbnail(number, *, text="a", num_frames=3):
    frames = np.full((num_frames, 3, FRAME_PX, FRAME_PX), 10 * number, np.uint8)
    frames[:, 0] += np.arange(num_frames, dtype=np.uint8)[:, None, None]
    return Thumbnail(text, text, frames)


@pytest.mark.parametrize("num_frames", [1, 3])
def test_every_frame_is_on_the_sheet(num_frames):
    sheet = np.asarray(draw_thumbnails([make_thumbnail(n, num_frames=num_frames) for n in range(5)], heading="h"))
    for number in range(5):
        for frame in range(num_frames):
            area = (sheet == [10 * number + frame, 10 * number, 10 * number]).all(axis=2)
            assert area.sum() >= FRAME_PX**2


@pytest.mark.parametrize("text", ["", "word " * 500, "x" * 5000, "走る \x1b[2J\n\t", "<b>"])
def test_no_text_leaves_its_card(text):
    frames = make_thumbnail(5)
    cards = [Thumbnail(text, text, frames.frame_F3HW), Thumbnail(text, text, None, fault=text)]
    sheet = draw_thumbnails(cards, heading=text)
    empty = draw_thumbnails([Thumbnail("", "", frames.frame_F3HW)] * 2, heading="")
    assert sheet.size == empty.size
    pixels = np.asarray(sheet)
    right = MARGIN + 3 * (FRAME_PX + GAP) - GAP
    assert (pixels[:, -MARGIN:] == 255).all()
    assert (pixels[2 * MARGIN + 30 :, right : right + 20] == 255).all()


def test_lines_are_filled_before_the_sheet_grows():
    heights = [draw_thumbnails([make_thumbnail(1)] * count, heading="").height for count in range(1, 6)]
    assert heights[0] == heights[CARDS_A_LINE - 1] < heights[CARDS_A_LINE] == heights[2 * CARDS_A_LINE - 1]
