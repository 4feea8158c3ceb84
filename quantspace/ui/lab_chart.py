"""A small line chart as HTML: its lines stretch with the page, its letters and dots do not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .render import render


@dataclass(frozen=True)
class Line:
    """Points (x, y) in the units of the axes, joined in order. `tone` is one of the page's: 0 to 7."""

    name: str
    tone: int
    points: Sequence[tuple[float, float]]
    dots: bool = True


@dataclass(frozen=True)
class Level:
    """A dashed line at one height: something to compare with."""

    name: str
    tone: int
    y: float


@dataclass(frozen=True)
class Chart:
    """What is drawn: `caption` says it in words, for those who do not see it.

    Attributes:
        x_range: of the axis, from and to; the axis of y begins at 0, or where the values do on a logarithmic one.
    """

    caption: str
    x_label: str
    y_label: str
    x_range: tuple[float, float]
    x_ticks: Sequence[tuple[float, str]]
    lines: Sequence[Line]
    levels: Sequence[Level] = ()
    logarithmic: bool = False


def chart_html(chart: Chart) -> str:
    """The chart, with a legend of its lines."""
    heights = [y for line in chart.lines for _, y in line.points] + [level.y for level in chart.levels]
    ticks = _decades(heights) if chart.logarithmic else _steps(max(heights))
    low, high = ticks[0], ticks[-1]

    def across(x: float) -> float:
        left, right = chart.x_range
        return 100 * (x - left) / (right - left)

    def down(y: float) -> float:
        if chart.logarithmic:
            return 100 * (1 - math.log(max(y, low) / low) / math.log(high / low))
        return 100 * (1 - (y - low) / (high - low))

    return render(
        "lab_chart",
        chart=chart,
        lines=[{"line": line, "points": [(across(x), down(y), x, y) for x, y in line.points]} for line in chart.lines],
        levels=[{"level": level, "top": down(level.y)} for level in chart.levels],
        x_ticks=[{"left": across(x), "words": words} for x, words in chart.x_ticks],
        y_ticks=[{"top": down(y), "words": f"{y:g}"} for y in ticks],
    )


def _decades(values: Sequence[float]) -> list[float]:
    """Powers of ten around `values`, two at least."""
    first = math.floor(math.log10(min(values)))
    last = math.ceil(math.log10(max(values)))
    return [10.0**power for power in range(first, max(last, first + 1) + 1)]


def _steps(highest: float) -> list[float]:
    """From 0 past `highest` in four or five steps of 1, 2 or 5."""
    rough = highest / 4
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    return [step * count for count in range(math.ceil(highest / step) + 1)]
