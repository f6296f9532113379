"""Captions and stills of the synthetic world."""

from collections.abc import Sequence

import numpy as np

from pipelines import synthetic_world as world
from pipelines.synthetic_world import Pose, Scene, Thing

_NOUNS = {
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "cross": ("cross", "plus sign"),
}
_SIZES = {"small": ("small", "little"), "big": ("big", "large")}
_TEXTURES = {"plain": ("plain", "solid"), "striped": ("striped", "stripy")}
_VERBS = {
    "still": ("stays still", "does not move", "rests"),
    "moves left": ("moves left", "slides to the left", "goes left"),
    "moves right": ("moves right", "slides to the right", "goes right"),
    "moves up": ("moves up", "rises", "goes up"),
    "moves down": ("moves down", "sinks", "goes down"),
    "grows": ("grows", "gets bigger", "expands"),
    "shrinks": ("shrinks", "gets smaller", "contracts"),
    "blinks": ("blinks", "flashes", "flickers"),
    "appears": ("appears", "shows up", "comes into view"),
    "disappears": ("disappears", "vanishes", "goes away"),
}
_LINKS = (" and ", " while ", ", ")
_COMMON = 0.7  # how often the first of several synonyms is used


def describe(scene: Scene, rng: np.random.Generator, *, complete: bool = False) -> str:
    """Tell the scene in words: ``complete`` names every attribute of the first two objects, else some are left out."""
    order = [0, 1] if rng.random() < 0.5 else [1, 0]
    if not complete and rng.random() < 0.3:
        order = order[:1]
    keep = 1.0 if complete else 0.65
    told = [f"{_noun_phrase(scene.things[i], rng, keep)} {_pick(_VERBS[scene.things[i].event], rng)}" for i in order]
    return _pick(_LINKS, rng).join(told)


def describe_still(things: Sequence[Thing], rng: np.random.Generator) -> str:
    """Tell one or two objects without their events, mostly in full."""
    count = 1 if len(things) == 1 or rng.random() < 0.15 else 2
    first = int(rng.random() * (len(things) - count + 1))
    keep = 1.0 if rng.random() < 0.7 else 0.65
    told = [_noun_phrase(thing, rng, keep) for thing in things[first : first + count]]
    if rng.random() < 0.5:
        told.reverse()
    return " and ".join(told)


def stills(rng: np.random.Generator, count: int, size: int) -> tuple[np.ndarray, list[str]]:
    """(uint8 [count, 3, S, S], captions): one to four objects in a picture, two thirds with at most two."""
    num_B = rng.choice([1, 2, 3, 4], p=[0.15, 0.5, 0.2, 0.15], size=count)
    shape, colour, scale, texture = (
        rng.integers(len(names), size=(count, 4))
        for names in (world.SHAPES, world.COLOURS, world.SIZES, world.TEXTURES)
    )
    # Films show objects between six and twelve tenths of their size: so do the stills.
    radius = world.RADIUS[scale] * rng.uniform(0.85, 1.1, (count, 4))
    x, y = world.place(rng, radius)
    alpha = (np.arange(4) < num_B[:, None]).astype(np.float32)
    canvas = world.backgrounds(rng, count, size)
    world.draw(canvas, Pose(shape, colour, texture, x, y, radius, alpha))
    canvas += rng.standard_normal(canvas.shape, np.float32) * np.float32(world.NOISE)
    captions = []
    for row, num in enumerate(num_B):
        codes = np.stack([shape, colour, scale, texture])[:, row, :num].T
        captions.append(describe_still([_thing(*code) for code in codes.tolist()], rng))
    return np.ascontiguousarray(world.to_uint8(canvas).transpose(0, 3, 1, 2)), captions


def _thing(shape: int, colour: int, scale: int, texture: int) -> Thing:
    return Thing(
        world.SHAPES[shape], world.COLOURS[colour], world.SIZES[scale], world.TEXTURES[texture], "still", 0.0, 0.0
    )


def _noun_phrase(thing: Thing, rng: np.random.Generator, keep: float) -> str:
    """``a big red striped square``; size, texture and colour stay with probability ``keep``, colour oftener."""
    words = []
    if rng.random() < keep:
        words.append(_pick(_SIZES[thing.size], rng))
    if rng.random() < max(keep, 0.9):
        words.append(thing.colour)
    if rng.random() < keep:
        words.append(_pick(_TEXTURES[thing.texture], rng))
    words.append(_pick(_NOUNS[thing.shape], rng))
    return f"{'an' if words[0][0] in 'aeiou' else 'a'} {' '.join(words)}"


def _pick(words: Sequence[str], rng: np.random.Generator) -> str:
    """The first word mostly, else one of its synonyms."""
    if len(words) == 1 or rng.random() < _COMMON:
        return words[0]
    return words[1 + int(rng.random() * (len(words) - 1))]
