"""A small procedural world: coloured shapes that move, grow, blink and vanish before a cluttered background.

Lengths are fractions of the picture's side, so the same scene renders at any size. Everything is a pure function of
a numpy generator. Shape letters: B pictures (stills of a batch, or frames of one video), O objects, S side in pixels,
Y and X the rows and columns around an object, b some of the pictures.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = ("red", "green", "blue", "yellow", "purple", "cyan", "white", "orange")
SIZES = ("small", "big")
TEXTURES = ("plain", "striped")
EVENTS = (
    "still",
    "moves left",
    "moves right",
    "moves up",
    "moves down",
    "grows",
    "shrinks",
    "blinks",
    "appears",
    "disappears",
)

_RGB = np.array(
    [
        (0.90, 0.10, 0.10),
        (0.10, 0.70, 0.15),
        (0.12, 0.22, 0.95),
        (0.97, 0.90, 0.10),
        (0.58, 0.12, 0.75),
        (0.10, 0.85, 0.90),
        (0.98, 0.98, 0.98),
        (1.00, 0.52, 0.05),
    ],
    np.float32,
)
RADIUS = np.array([0.115, 0.21], np.float32)
_STRIPE = np.float32(0.06)  # grey of the dark stripes
_STRIPE_PERIOD = 0.105
NOISE = 0.03
_TRAVEL = 0.36
_HEADING = {"moves left": (-1, 0), "moves right": (1, 0), "moves up": (0, -1), "moves down": (0, 1)}
_CLUTTER = 5


class Thing(NamedTuple):
    """One object by its names; ``x`` to the right and ``y`` down are the centre in the middle of its event."""

    shape: str
    colour: str
    size: str
    texture: str
    event: str
    x: float
    y: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """Two to four objects, the first two worth telling, and the generator seed of the background."""

    things: tuple[Thing, ...]
    background_seed: int


class Pose(NamedTuple):
    """What is drawn: arrays [B, O], an absent object having ``alpha`` 0."""

    shape: np.ndarray
    colour: np.ndarray
    texture: np.ndarray
    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray
    alpha: np.ndarray


def make_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene: mostly two objects, sometimes one or two small distractors more."""
    count = int(rng.choice([2, 3, 4], p=[0.8, 0.15, 0.05]))
    kinds = (SHAPES, COLOURS, SIZES, TEXTURES, EVENTS)
    named = [[kind[rng.integers(len(kind))] for kind in kinds] for _ in range(count)]
    for distractor in named[2:]:
        distractor[2] = "small"
    radius_1O = np.array([[RADIUS[SIZES.index(size)] for _, _, size, _, _ in named]])
    x_1O, y_1O = place(rng, radius_1O)
    things = tuple(Thing(*names, x=float(x), y=float(y)) for names, x, y in zip(named, x_1O[0], y_1O[0], strict=True))
    return Scene(things=things, background_seed=int(rng.integers(1 << 31)))


def render(scene: Scene, *, size: int, num_frames: int) -> np.ndarray:
    """Film a scene -> uint8 [F, H, W, 3] with H = W = ``size``."""
    rng = np.random.default_rng(scene.background_seed)
    canvas_FSS3 = np.repeat(backgrounds(rng, 1, size), num_frames, axis=0)
    draw(canvas_FSS3, _film(scene, num_frames))
    grain_SS3 = rng.standard_normal((size, size, 3), np.float32) * NOISE
    for frame_SS3 in canvas_FSS3:
        frame_SS3 += np.roll(grain_SS3, rng.integers(size, size=2), axis=(0, 1))
    return to_uint8(canvas_FSS3)


def place(rng: np.random.Generator, radius_BO: np.ndarray, *, num_tries: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Centres (x [B, O], y [B, O]) inside the picture, each object as clear of the earlier ones as its tries allow."""
    num_pictures, num_objects = radius_BO.shape
    rows = np.arange(num_pictures)
    centre_BO2 = np.empty((num_pictures, num_objects, 2))
    for number in range(num_objects):
        margin_B11 = radius_BO[:, number, None, None] + 0.02
        tried_BT2 = margin_B11 + (1 - 2 * margin_B11) * rng.random((num_pictures, num_tries, 2))
        gap_BTO = np.linalg.norm(tried_BT2[:, :, None] - centre_BO2[:, None, :number], axis=-1)
        gap_BTO -= radius_BO[:, None, :number] + radius_BO[:, number, None, None]
        # Any gap of this width is clear enough: beyond it the first try wins, so objects are not driven apart.
        best_B = np.minimum(gap_BTO.min(axis=2, initial=1), 0.04).argmax(axis=1)
        centre_BO2[:, number] = tried_BT2[rows, best_B]
    return centre_BO2[..., 0], centre_BO2[..., 1]


def backgrounds(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """Gradients with soft, dull clutter -> float32 [B, S, S, 3] in 0..1."""
    grey = rng.uniform(0.25, 0.6, (count, 1, 1, 1)) + rng.uniform(-0.12, 0.12, (count, _CLUTTER, _CLUTTER, 1))
    tint = rng.uniform(-0.09, 0.09, (count, 1, 1, 3)) + rng.uniform(-0.06, 0.06, (count, _CLUTTER, _CLUTTER, 3))
    slope = rng.uniform(-0.16, 0.16, (2, count, 1, 1, 1))
    ramp = np.linspace(-1, 1, _CLUTTER)
    knots_BKK3 = grey + tint + slope[0] * ramp[:, None, None] + slope[1] * ramp[:, None]
    weight_SK = np.clip(1 - abs(np.linspace(0, _CLUTTER - 1, size)[:, None] - np.arange(_CLUTTER)), 0, 1)
    weight_SK = weight_SK.astype(np.float32)
    rows_BKS3 = np.einsum("bkjc,sj->bksc", knots_BKK3.astype(np.float32), weight_SK, optimize=True)
    return np.einsum("bksc,rk->brsc", rows_BKS3, weight_SK, optimize=True)


def draw(canvas_BSS3: np.ndarray, pose: Pose) -> None:
    """Paint the objects in order, in place, with edges softened over one pixel."""
    size = canvas_BSS3.shape[1]
    at_S = (np.arange(size, dtype=np.float32) + 0.5) / size
    phase_SS = (at_S[:, None] + at_S[None, :]) * np.float32(2 * np.pi / _STRIPE_PERIOD)
    # Steep on large pictures, smooth on small ones: what remains of a stripe after downsampling.
    stripe_SS = np.clip(0.5 + np.sin(phase_SS) * max(0.5, size / 48), 0, 1)
    for number in range(pose.alpha.shape[1]):
        for shape in range(len(SHAPES)):
            row_b = np.flatnonzero((pose.shape[:, number] == shape) & (pose.alpha[:, number] > 0))
            if row_b.size:
                _paint(canvas_BSS3, row_b, number, pose, at_S, stripe_SS)


def to_uint8(canvas_BSS3: np.ndarray) -> np.ndarray:
    """float32 in 0..1 -> uint8, overwriting its input."""
    canvas_BSS3 *= 255
    np.clip(canvas_BSS3, 0, 255, out=canvas_BSS3)
    return canvas_BSS3.astype(np.uint8)


def _paint(canvas_BSS3, row_b, number, pose: Pose, at_S, stripe_SS) -> None:
    """Object ``number`` of the pictures ``row_b``, all of one shape."""
    x_b11, y_b11, radius_b11, alpha_b11 = (
        values[row_b, number].astype(np.float32)[:, None, None] for values in (pose.x, pose.y, pose.radius, pose.alpha)
    )
    across, along = _window(x_b11, radius_b11, len(at_S)), _window(y_b11, radius_b11, len(at_S))
    right, down = at_S[None, None, across] - x_b11, at_S[None, along, None] - y_b11
    outside_bYX = _distance(SHAPES[pose.shape[row_b[0], number]], right, down, radius_b11)
    cover_bYX = np.clip(0.5 - outside_bYX * len(at_S), 0, 1) * alpha_b11
    striped_b11 = (pose.texture[row_b, number] == 1)[:, None, None]
    stripe_bYX = stripe_SS[along, across] * striped_b11
    rgb_b3 = _RGB[pose.colour[row_b, number]]
    for channel in range(3):
        rgb_b11 = rgb_b3[:, channel, None, None]
        ink_bYX = rgb_b11 + (_STRIPE - rgb_b11) * stripe_bYX
        under_bYX = canvas_BSS3[row_b, along, across, channel]
        canvas_BSS3[row_b, along, across, channel] = under_bYX + (ink_bYX - under_bYX) * cover_bYX


def _window(centre: np.ndarray, radius: np.ndarray, size: int) -> slice:
    """The rows or columns that any of the objects touches."""
    reach = radius * 1.1 + 1 / size
    return slice(max(int((centre - reach).min() * size), 0), max(int((centre + reach).max() * size) + 1, 0))


def _distance(shape: str, right: np.ndarray, down: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Signed distance to the outline, negative inside; all shapes look about equally large."""
    if shape == "circle":
        return np.sqrt(right * right + down * down) - radius
    if shape == "square":
        return np.maximum(abs(right), abs(down)) - radius * 0.88
    if shape == "triangle":
        slant = abs(right) * 0.894 - (down + radius) * 0.447
        return np.maximum(slant, down - radius * 0.85)
    arm, half = radius * 1.05, radius * 0.36
    wide, high = abs(right), abs(down)
    return np.minimum(np.maximum(wide - arm, high - half), np.maximum(wide - half, high - arm))


def _film(scene: Scene, num_frames: int) -> Pose:
    """The pose of every object in every frame."""
    time_F = np.linspace(0, 1, num_frames)
    columns = [_act(thing, time_F) for thing in scene.things]
    return Pose(*(np.stack(column, axis=1) for column in zip(*columns, strict=True)))


def _act(thing: Thing, time_F: np.ndarray) -> tuple[np.ndarray, ...]:
    """One object's column of a Pose."""
    ones_F = np.ones_like(time_F)
    radius, alpha = RADIUS[SIZES.index(thing.size)] * ones_F, ones_F
    dx, dy = _HEADING.get(thing.event, (0, 0))
    if thing.event in ("grows", "shrinks"):
        radius = radius * (0.6 + 0.6 * (time_F if thing.event == "grows" else 1 - time_F))
    elif thing.event == "blinks":
        alpha = (np.floor(time_F * 7.99) % 2 == 0).astype(float)
    elif thing.event == "appears":
        alpha = (time_F >= 0.45).astype(float)
    elif thing.event == "disappears":
        alpha = (time_F <= 0.55).astype(float)
    return (
        np.full(time_F.shape, SHAPES.index(thing.shape)),
        np.full(time_F.shape, COLOURS.index(thing.colour)),
        np.full(time_F.shape, TEXTURES.index(thing.texture)),
        thing.x + dx * _TRAVEL * (time_F - 0.5),
        thing.y + dy * _TRAVEL * (time_F - 0.5),
        radius,
        alpha,
    )
