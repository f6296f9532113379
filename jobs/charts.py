"""Charts as inline SVG, in the colours of the page around them: bars, curves over K, points over a cost.

Series differ in colour and in dash or shape; every chart has a title for screen readers, and its numbers stand in a
table of the page.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jobs.page import Html, element

WIDTH, HEIGHT = 460, 280
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 14, 46
DASHES = ("none", "7 4", "2 3", "9 3 2 3", "1 2", "12 4")
NUM_COLOURS = 6


class Point(NamedTuple):
    """One system: what it costs, how good it is, between which values that lies, and its name."""

    x: float
    y: float
    low: float
    high: float
    name: str


class _Axes:
    """From values to pixels: x by its logarithm unless ``linear``, y linear from ``bottom`` to ``top``."""

    def __init__(self, xs: Sequence[float], *, bottom: float, top: float) -> None:
        low, high = math.log10(min(xs)), math.log10(max(xs))
        room = 0.06 * (high - low) or 0.5
        self._low, self._high = low - room, high + room
        self._bottom, self._top = bottom, max(top, bottom + 1)

    def x(self, value: float) -> float:
        share = (math.log10(value) - self._low) / (self._high - self._low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = (value - self._bottom) / (self._top - self._bottom)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def x_ticks(self) -> list[float]:
        """Round numbers inside the axis: more for each power of ten the fewer of these there are."""
        powers, wide = range(math.floor(self._low) - 1, math.ceil(self._high) + 1), self._high - self._low
        steps = (1, 1.5, 2, 3, 4, 5, 7) if wide < 1 else (1, 2, 5) if wide < 3 else (1,)
        ticks = [step * 10.0**power for power in powers for step in steps]
        return [tick for tick in ticks if self._low <= math.log10(tick) <= self._high]

    def y_ticks(self) -> list[float]:
        step = next(step for step in (1, 2, 5, 10, 20, 50, 100) if (self._top - self._bottom) / step <= 6)
        first = math.ceil(self._bottom / step)
        return [step * i for i in range(first, math.floor(self._top / step) + 1)]

    def draw(self, *, x_title: str, y_title: str) -> list[Html]:
        parts = [_line(LEFT, self.y(tick), WIDTH - RIGHT, self.y(tick), "grid") for tick in self.y_ticks()]
        parts += [_text(LEFT - 8, self.y(tick) + 4, f"{tick:g}", "end") for tick in self.y_ticks()]
        for tick in self.x_ticks():
            parts.append(_line(self.x(tick), HEIGHT - BOTTOM, self.x(tick), HEIGHT - BOTTOM + 4, "axis"))
            parts.append(_text(self.x(tick), HEIGHT - BOTTOM + 18, short(tick), "middle"))
        return [*parts, *_frame(x_title, y_title)]


def bars(values: Mapping[str, float], *, title: str, x_title: str, y_title: str) -> Html:
    """A bar for each name, with its value above it."""
    top = max([*values.values(), 1e-9])
    room = (WIDTH - LEFT - RIGHT) / max(1, len(values))
    parts = _frame(x_title, y_title)
    for i, (name, value) in enumerate(values.items()):
        height = value / top * (HEIGHT - TOP - BOTTOM - 16)
        left, base = LEFT + i * room, HEIGHT - BOTTOM
        parts.append(
            element(
                "rect",
                x=_px(left + room * 0.12),
                y=_px(base - height),
                width=_px(room * 0.76),
                height=_px(height),
                style="fill:var(--c0)",
            )
        )
        parts.append(_text(left + room / 2, base - height - 5, f"{value:.3g}", "middle"))
        parts.append(_text(left + room / 2, base + 18, name, "middle"))
    return _svg(title, parts)


def curves(series: Mapping[str, Sequence[tuple[float, float]]], *, title: str, x_title: str, y_title: str) -> Html:
    """A line for each name, over a logarithmic x axis from 0 to 100 upwards."""
    axes = _Axes([x for points in series.values() for x, _ in points], bottom=0, top=100)
    parts = axes.draw(x_title=x_title, y_title=y_title)
    for i, (name, points) in enumerate(series.items()):
        path = "M" + " L".join(f"{_px(axes.x(x))},{_px(axes.y(y))}" for x, y in points)
        style = f"fill:none;stroke:var(--c{i % NUM_COLOURS});stroke-width:2;stroke-dasharray:{DASHES[i % len(DASHES)]}"
        top = HEIGHT - BOTTOM - 14 - 18 * (len(series) - 1 - i)
        parts += [
            element("path", d=path, style=style),
            element("path", d=f"M{WIDTH - 200},{top} h28", style=style),
            _text(WIDTH - 166, top + 4, name, "start"),
        ]
    return _svg(title, parts)


def scatter(points: Sequence[Point | None], *, title: str, x_title: str, y_title: str) -> Html:
    """A numbered point with its interval for each system, over a logarithmic x axis; a table tells the numbers.

    A system whose cost nobody knows is None: it keeps its number.
    """
    known = [point for point in points if point]
    low, high = min(point.low for point in known), max(point.high for point in known)
    room = max(1.0, 0.1 * (high - low))
    axes = _Axes([point.x for point in known], bottom=max(0, low - room), top=min(100, high + room))
    parts = axes.draw(x_title=x_title, y_title=y_title)
    for i, point in enumerate(points):
        if point is None:
            continue
        x, y, colour = axes.x(point.x), axes.y(point.y), f"var(--c{i % NUM_COLOURS})"
        parts += [
            element(
                "path",
                d=f"M{_px(x)},{_px(axes.y(point.low))} V{_px(axes.y(point.high))}",
                style=f"stroke:{colour};stroke-width:1.5;opacity:.6",
            ),
            element(
                "circle",
                element("title", f"{point.name}: {point.y:.1f} at {short(point.x)}"),
                cx=_px(x),
                cy=_px(y),
                r=9,
                style=f"fill:{colour};stroke:var(--back)",
            ),
            element(
                "text",
                str(i + 1),
                x=_px(x),
                y=_px(y + 4),
                text_anchor="middle",
                style="fill:var(--back);font-weight:600",
            ),
        ]
    return _svg(title, parts)


def short(value: float) -> str:
    """A number in few letters: 12k, 3.4M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def _frame(x_title: str, y_title: str) -> list[Html]:
    middle = (TOP + HEIGHT - BOTTOM) / 2
    turned = element("text", y_title, x=14, y=_px(middle), text_anchor="middle", transform=f"rotate(-90 14 {middle})")
    return [
        _line(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, "axis"),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_title, "middle"),
        turned,
    ]


def _svg(title: str, parts: Sequence[Html]) -> Html:
    drawing = element(
        "svg", element("title", title), parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=title
    )
    return element("figure", drawing, element("figcaption", title))


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Html:
    return element("line", x1=_px(x1), y1=_px(y1), x2=_px(x2), y2=_px(y2), class_=kind)


def _text(x: float, y: float, text: str, anchor: str) -> Html:
    return element("text", text, x=_px(x), y=_px(y), text_anchor=anchor)


def _px(value: float) -> str:
    return f"{value:.1f}"
