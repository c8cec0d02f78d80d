"""Rates with their intervals: a dot and a whisker each, on one axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from apot_export.verification.page._markup import Markup, joined, tag
from apot_export.verification.page._numbers import interval, percent

_STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
"""Distances of ticks, in hundredths of a percent."""
_MOST_TICKS = 6
_WHOLE = 10_000
_MARGIN = 8.0
"""Percent of a drawing's width left free on both sides of the axis, for half a label."""
_HEIGHT = 30
_CAP = 5


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A row of the chart; rates are fractions in [0, 1]."""

    name: str
    """May be Markup."""
    spoken: str
    """The name as plain text."""
    rate: float
    low: float
    high: float
    hollow: bool
    """A reference rather than what is judged."""


def interval_chart(what: str, rates: Sequence[Rate]) -> Markup:
    """Draw rates with their intervals.

    Args:
        what: What the rates are of; the axis is named so.
        rates: One or more.
    """
    ticks = _ticks(min(rate.low for rate in rates), max(rate.high for rate in rates))
    rows = [_row(what, rate, ticks) for rate in rates]
    starts = "starts at 0" if ticks[0] == 0 else f"does not start at 0 but at {_label(ticks, 0)}"
    named = what[0].upper() + what[1:]
    caption = f"{named}: dot, and whisker over the 95% interval. The axis {starts}."
    return tag("figure", *rows, _axis(ticks), tag("figcaption", caption), class_="intervals")


def _row(what: str, rate: Rate, ticks: Sequence[int]) -> Markup:
    low, middle, high = (_place(value, ticks) for value in (rate.low, rate.rate, rate.high))
    centre = _HEIGHT / 2
    whisker = [
        tag("line", x1=low, x2=high, y1=centre, y2=centre),
        tag("line", x1=low, x2=low, y1=centre - _CAP, y2=centre + _CAP),
        tag("line", x1=high, x2=high, y1=centre - _CAP, y2=centre + _CAP),
    ]
    within = interval(rate.low, rate.high)
    said = f"{rate.spoken}: {what} {percent(rate.rate)}, 95% interval {within}"
    drawing = tag(
        "svg",
        tag("title", said),
        tag("g", *(_grid(tick, ticks) for tick in ticks), class_="grid"),
        tag("g", *whisker, class_="whisker"),
        tag("circle", cx=middle, cy=centre, r=5.5, class_="hollow" if rate.hollow else "dot"),
        height=_HEIGHT,
        role="img",
        aria_label=said,
    )
    values = joined([tag("b", percent(rate.rate)), tag("span", interval(rate.low, rate.high))], " ")
    return tag(
        "div",
        tag("span", rate.name, class_="name"),
        tag("span", values, class_="value"),
        drawing,
        class_="rate",
    )


def _grid(tick: int, ticks: Sequence[int]) -> Markup:
    place = _place(tick / _WHOLE, ticks)
    # Longer than the drawing: where rows stand close, the lines of neighbours meet.
    return tag("line", x1=place, x2=place, y1=-_HEIGHT / 2, y2=1.5 * _HEIGHT)


def _axis(ticks: Sequence[int]) -> Markup:
    labels = [
        tag("text", _label(ticks, i), x=_place(tick / _WHOLE, ticks), y=13, text_anchor="middle")
        for i, tick in enumerate(ticks)
    ]
    drawing = tag("svg", *labels, height=18, aria_hidden="true")
    return tag("div", drawing, class_="rate axis")


def _ticks(lowest: float, highest: float) -> list[int]:
    """Return round places around a range, in hundredths of a percent.

    >>> _ticks(0.9155, 0.9898)
    [9000, 9200, 9400, 9600, 9800, 10000]
    """
    for step in _STEPS:
        first = math.floor(lowest * _WHOLE / step) * step
        last = min(_WHOLE, math.ceil(highest * _WHOLE / step) * step)
        if (last - first) // step < _MOST_TICKS:
            break
    return list(range(max(0, min(first, last - step)), last + 1, step))


def _place(rate: float, ticks: Sequence[int]) -> str:
    share = (rate * _WHOLE - ticks[0]) / (ticks[-1] - ticks[0])
    return f"{_MARGIN + share * (100 - 2 * _MARGIN):.2f}%"


def _label(ticks: Sequence[int], index: int) -> str:
    step = ticks[1] - ticks[0]
    digits = 0 if step % 100 == 0 else 1 if step % 10 == 0 else 2
    return f"{ticks[index] / 100:.{digits}f}%"
