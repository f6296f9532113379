"""A contact sheet of videos: a few frames of each, with its name and caption."""

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from fpig_core.drawing import (
    BACKGROUND,
    FAINT_INK,
    GAP,
    INK,
    LINE_HEIGHT,
    MARGIN,
    ROW_GAP,
    SMALL_PX,
    TITLE_PX,
    font,
)

FRAME_PX, FRAMES = 152, 3
CARDS_A_LINE = 2
CAPTION_LINES = 2
CARD_GAP = 28
EMPTY, WARNING = (238, 240, 244), (176, 42, 32)
_CARD_PX = FRAMES * (FRAME_PX + GAP) - GAP
_LINE_PX = round(SMALL_PX * LINE_HEIGHT)


class Thumbnail(NamedTuple):
    """``frame_F3HW`` uint8, or None with a ``fault`` that says why there are no frames."""

    title: str
    caption: str
    frame_F3HW: np.ndarray | None
    fault: str = ""


def draw_thumbnails(thumbnails: Sequence[Thumbnail], *, heading: str) -> Image.Image:
    """Cards in lines of ``CARDS_A_LINE``: title, frames, caption."""
    card_height = _LINE_PX + FRAME_PX + GAP + CAPTION_LINES * _LINE_PX
    num_lines = -(-len(thumbnails) // CARDS_A_LINE)
    top = MARGIN + round(TITLE_PX * LINE_HEIGHT) + ROW_GAP // 2
    width = 2 * MARGIN + CARDS_A_LINE * (_CARD_PX + CARD_GAP) - CARD_GAP
    sheet = Image.new("RGB", (width, top + num_lines * (card_height + ROW_GAP) - ROW_GAP + MARGIN), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), _fit(heading, width - 2 * MARGIN, TITLE_PX), fill=INK, font=font(TITLE_PX))
    for number, thumbnail in enumerate(thumbnails):
        line, column = divmod(number, CARDS_A_LINE)
        card = _draw_card(thumbnail, height=card_height)
        sheet.paste(card, (MARGIN + column * (_CARD_PX + CARD_GAP), top + line * (card_height + ROW_GAP)))
    return sheet


def _draw_card(thumbnail: Thumbnail, *, height: int) -> Image.Image:
    card = Image.new("RGB", (_CARD_PX, height), BACKGROUND)
    draw = ImageDraw.Draw(card)
    draw.text((0, 0), _fit(thumbnail.title, _CARD_PX, SMALL_PX), fill=FAINT_INK, font=font(SMALL_PX))
    if thumbnail.frame_F3HW is None:
        draw.rectangle((0, _LINE_PX, _CARD_PX - 1, _LINE_PX + FRAME_PX - 1), fill=EMPTY)
        for i, line in enumerate(_wrap(thumbnail.fault, max_lines=5)):
            draw.text((GAP, _LINE_PX + GAP + i * _LINE_PX), line, fill=WARNING, font=font(SMALL_PX))
    else:
        for i, frame_3HW in enumerate(thumbnail.frame_F3HW[:FRAMES]):
            frame = Image.fromarray(frame_3HW.transpose(1, 2, 0)).resize((FRAME_PX, FRAME_PX), Image.Resampling.LANCZOS)
            card.paste(frame, (i * (FRAME_PX + GAP), _LINE_PX))
    for i, line in enumerate(_wrap(thumbnail.caption or "(no caption)", max_lines=CAPTION_LINES)):
        draw.text((0, _LINE_PX + FRAME_PX + GAP // 2 + i * _LINE_PX), line, fill=INK, font=font(SMALL_PX))
    return card


def _wrap(text: str, *, max_lines: int) -> list[str]:
    lines = textwrap.wrap(text[:1000], _CARD_PX * 2 // SMALL_PX - 4, max_lines=max_lines, placeholder=" ...")
    return [_fit(line, _CARD_PX, SMALL_PX) for line in lines]


def _fit(text: str, width: int, size: int) -> str:
    """The text, cut where it would be wider than ``width`` pixels."""
    letters = "".join(char if char.isprintable() else " " for char in text[:400])
    if font(size).getlength(letters) <= width:
        return letters
    while letters and font(size).getlength(f"{letters} ...") > width:
        letters = letters[:-1]
    return f"{letters} ..."
