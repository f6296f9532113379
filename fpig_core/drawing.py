"""Pictures of what the token selector kept: a contact sheet with one row per video."""

import math
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MIN_FRAME_PX = 112
FRAMES_A_LINE = 12
MARGIN, GAP, ROW_GAP = 24, 8, 28
TITLE_PX, TEXT_PX, SMALL_PX = 20, 17, 13
LINE_HEIGHT = 1.4
BACKGROUND, INK, FAINT_INK, MARK = (255, 255, 255), (24, 28, 36), (110, 118, 130), (255, 176, 0)
DIMMED_TO, DIMMED_BY = np.array([238.0, 240.0, 244.0]), 0.72


class TokenPicture(NamedTuple):
    """One video: ``frame_F3HW`` uint8 as the model saw it, ``kept_FP`` bool which patches were kept, row by row."""

    title: str
    caption: str
    frame_F3HW: np.ndarray
    kept_FP: np.ndarray


def kept_patches(index_K: np.ndarray, *, num_frames: int, num_patches: int, num_globals: int) -> np.ndarray:
    """Places of kept tokens among all tokens -> bool [F, P].

    Tokens are the global ones, then each frame's own token and its patches.
    """
    frame, place = np.divmod(np.asarray(index_K) - num_globals, num_patches + 1)
    assert (frame >= 0).all(), "a global token was kept"
    assert (frame < num_frames).all(), "a token after the last frame was kept"
    assert (place > 0).all(), "a frame's own token was kept"
    kept_FP = np.zeros((num_frames, num_patches), bool)
    kept_FP[frame, place - 1] = True
    return kept_FP


def draw_contact_sheet(pictures: Sequence[TokenPicture], *, heading: str) -> Image.Image:
    """All videos below each other: kept patches as they are and outlined, the others faded."""
    grid = math.isqrt(pictures[0].kept_FP.shape[1])
    frame_px = grid * math.ceil(MIN_FRAME_PX / grid)
    num_columns = min(FRAMES_A_LINE, max(len(picture.frame_F3HW) for picture in pictures))
    width = 2 * MARGIN + max(num_columns * (frame_px + GAP) - GAP, 640)
    rows = [_draw_row(picture, frame_px=frame_px, width=width) for picture in pictures]
    top = MARGIN + round(TITLE_PX * LINE_HEIGHT) + ROW_GAP // 2
    height = top + sum(row.height + ROW_GAP for row in rows) + MARGIN - ROW_GAP
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    ImageDraw.Draw(sheet).text((MARGIN, MARGIN), heading, fill=INK, font=font(TITLE_PX))
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height + ROW_GAP
    return sheet


def fade_unkept(frame_HW3: np.ndarray, kept_P: np.ndarray) -> np.ndarray:
    """The frame with every patch that was not kept drawn towards light grey; kept ones are left untouched."""
    grid = math.isqrt(len(kept_P))
    cell_y, cell_x = frame_HW3.shape[0] // grid, frame_HW3.shape[1] // grid
    kept_HW1 = np.kron(kept_P.reshape(grid, grid), np.ones((cell_y, cell_x), bool))[..., None]
    faded = frame_HW3 * (1 - DIMMED_BY) + DIMMED_TO * DIMMED_BY
    return np.where(kept_HW1, frame_HW3, faded.astype(np.uint8))


def _draw_row(picture: TokenPicture, *, frame_px: int, width: int) -> Image.Image:
    """Title, frames with the number of kept patches below each, caption, and the total."""
    num_frames, num_patches = picture.kept_FP.shape
    num_lines = math.ceil(num_frames / FRAMES_A_LINE)
    line_px = frame_px + round(SMALL_PX * LINE_HEIGHT) + GAP
    letters = (width - 2 * MARGIN) * 2 // TEXT_PX
    caption_lines = textwrap.wrap(picture.caption or "(no caption)", letters, max_lines=3, placeholder=" ...")
    text_px, small_px = round(TEXT_PX * LINE_HEIGHT), round(SMALL_PX * LINE_HEIGHT)
    frames_top = small_px + GAP // 2
    text_top = frames_top + num_lines * line_px
    row = Image.new("RGB", (width, text_top + len(caption_lines) * text_px + small_px), BACKGROUND)
    draw = ImageDraw.Draw(row)
    draw.text((MARGIN, 0), picture.title, fill=FAINT_INK, font=font(SMALL_PX))
    for i in range(num_frames):
        left = MARGIN + i % FRAMES_A_LINE * (frame_px + GAP)
        top = frames_top + i // FRAMES_A_LINE * line_px
        row.paste(draw_frame(picture.frame_F3HW[i], picture.kept_FP[i], frame_px=frame_px), (left, top))
        number = int(picture.kept_FP[i].sum())
        place, colour = (left + frame_px / 2, top + frame_px + 4), INK if number else FAINT_INK
        draw.text(place, f"frame {i + 1}: {number} kept", fill=colour, font=font(SMALL_PX), anchor="ma")
    for i, line in enumerate(caption_lines):
        draw.text((MARGIN, text_top + i * text_px), line, fill=INK, font=font(TEXT_PX))
    total = f"{int(picture.kept_FP.sum())} of {num_frames * num_patches} patches kept"
    draw.text((MARGIN, text_top + len(caption_lines) * text_px), total, fill=FAINT_INK, font=font(SMALL_PX))
    return row


def draw_frame(frame_3HW: np.ndarray, kept_P: np.ndarray, *, frame_px: int) -> Image.Image:
    """A frame with its kept patches outlined and the others faded, ``frame_px`` wide, or a little more."""
    grid = math.isqrt(len(kept_P))
    frame = plain_frame(frame_3HW, frame_px=grid * math.ceil(frame_px / grid))
    frame = Image.fromarray(fade_unkept(np.asarray(frame), kept_P))
    draw, cell = ImageDraw.Draw(frame), frame.width // grid
    for y, x in np.argwhere(kept_P.reshape(grid, grid)) * cell:
        draw.rectangle((int(x), int(y), int(x) + cell - 1, int(y) + cell - 1), outline=MARK, width=2)
    return frame


def plain_frame(frame_3HW: np.ndarray, *, frame_px: int) -> Image.Image:
    """A frame as a picture ``frame_px`` wide."""
    # Small frames are shown with their own pixels; smoothing would invent detail the model never saw.
    resample = Image.Resampling.NEAREST if frame_3HW.shape[1] < frame_px else Image.Resampling.LANCZOS
    return Image.fromarray(frame_3HW.transpose(1, 2, 0)).resize((frame_px, frame_px), resample)


def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
