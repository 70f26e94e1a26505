"""The cost curve as a picture: plain SVG, a panel for each tail and percentile, a line for each budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import attrgetter
from xml.sax.saxutils import escape

from tests.sim.hedging.sweep import Point

PANEL_W, PANEL_H = 380, 250
LEFT, TOP, GAP_X, GAP_Y, FOOT = 60, 62, 70, 66, 104
COLOURS = ("#7b3294", "#2166ac", "#1b7837", "#e08214", "#b2182b")
EXTRAS = (0.005, 0.25)
EXTRA_TICKS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
SECOND_TICKS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0)
READINGS = (("p99", "p99_s"), ("p99.5", "p995_s"))


class _Scale:
    """A logarithmic axis, from values to pixels."""

    def __init__(self, values: tuple[float, float], pixels: tuple[float, float]) -> None:
        self.low, self.high = values
        self._begin, self._end = pixels

    def __call__(self, value: float) -> float:
        share = math.log(min(max(value, self.low), self.high) / self.low) / math.log(self.high / self.low)
        return round(self._begin + share * (self._end - self._begin), 1)


def svg(points: Sequence[Point], caption: str) -> str:
    """Return the picture."""
    tails = list(dict.fromkeys(point.tail for point in points))
    width = LEFT + len(tails) * (PANEL_W + GAP_X)
    height = TOP + len(READINGS) * (PANEL_H + GAP_Y) + FOOT - GAP_Y
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for column, tail in enumerate(tails):
        x = LEFT + column * (PANEL_W + GAP_X)
        parts.append(_text(x + PANEL_W / 2, 22, tail, anchor="middle", weight="bold"))
        for row, (title, field) in enumerate(READINGS):
            y = TOP + row * (PANEL_H + GAP_Y)
            parts += _panel([point for point in points if point.tail == tail], title, field, x, y)
    parts += _legend(sorted({point.budget for point in points if point.quantile is not None}), height - 30)
    parts += [_text(LEFT, height - 10, caption, fill="#666"), "</svg>"]
    return "\n".join(parts) + "\n"


def _panel(points: Sequence[Point], title: str, field: str, x: float, y: float) -> list[str]:
    value_of = attrgetter(field)
    values = [value_of(point) for point in points]
    across = _Scale(EXTRAS, (x, x + PANEL_W))
    up = _Scale((min(values) / 1.25, max(values) * 1.25), (y + PANEL_H, y))
    parts = [f'<rect x="{x}" y="{y}" width="{PANEL_W}" height="{PANEL_H}" fill="none" stroke="#999"/>']
    parts.append(_text(x, y - 8, f"{title} of the time to first content, s"))
    for tick in EXTRA_TICKS:
        parts += _grid(across(tick), y, across(tick), y + PANEL_H)
        parts.append(_text(across(tick), y + PANEL_H + 16, f"{100 * tick:g} %", anchor="middle"))
    for tick in SECOND_TICKS:
        if up.low < tick < up.high:
            parts += _grid(x, up(tick), x + PANEL_W, up(tick))
            parts.append(_text(x - 6, up(tick) + 4, f"{tick:g}", anchor="end"))
    parts.append(_text(x + PANEL_W / 2, y + PANEL_H + 32, "extra upstream requests", anchor="middle"))
    for point in points:
        if point.quantile is None:
            at = up(value_of(point))
            parts.append(f'<line x1="{x}" y1="{at}" x2="{x + PANEL_W}" y2="{at}" stroke="#333" stroke-dasharray="6 4"/>')
            parts.append(_text(x + 6, at - 5, "no hedging", fill="#333"))
    budgets = sorted({point.budget for point in points if point.quantile is not None})
    for colour, budget in zip(COLOURS, budgets, strict=False):
        line = [point for point in points if point.quantile is not None and point.budget == budget]
        at = [(across(point.extra), up(value_of(point))) for point in line]
        joined = " ".join(f"{px},{py}" for px, py in at)
        parts.append(f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        for point, (px, py) in zip(line, at, strict=True):
            told = f"p{100 * (point.quantile or 0):g}, budget {100 * budget:g} %: {100 * point.extra:.2f} % extra, {value_of(point):.3f} s"
            parts.append(f'<circle cx="{px}" cy="{py}" r="3.5" fill="{colour}"><title>{escape(told)}</title></circle>')
        if budget == budgets[-1]:
            parts += _names(line, at, colour)
    return parts


def _names(line: Sequence[Point], at: Sequence[tuple[float, float]], colour: str) -> list[str]:
    """Name the points by their percentile; those in one place share a text."""
    names: dict[tuple[float, float], list[str]] = {}
    for point, (x, y) in zip(line, at, strict=True):
        names.setdefault((round(x), round(y)), []).append(f"p{100 * (point.quantile or 0):g}")
    return [_text(x + 5, y - 6, ", ".join(shared), fill=colour) for (x, y), shared in names.items()]


def _legend(budgets: Sequence[float], y: float) -> list[str]:
    parts = [_text(LEFT, y, "budget:")]
    for number, (colour, budget) in enumerate(zip(COLOURS, budgets, strict=False)):
        x = LEFT + 60 + 70 * number
        parts += [f'<circle cx="{x}" cy="{y - 4}" r="4" fill="{colour}"/>', _text(x + 8, y, f"{100 * budget:g} %")]
    told = f"points: percentiles to hedge at, as named on the {100 * budgets[-1]:g} % line"
    return [*parts, _text(LEFT + 60 + 70 * len(budgets), y, told)]


def _grid(x1: float, y1: float, x2: float, y2: float) -> list[str]:
    return [f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="#e4e4e4"/>']


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal", fill: str = "#000") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-weight="{weight}" fill="{fill}">{escape(text)}</text>'
