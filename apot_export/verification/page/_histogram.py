"""Counts between edges: a histogram whose counts may span orders of magnitude."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from apot_export.verification.page._markup import Column, Markup, table, tag
from apot_export.verification.page._numbers import compact, count, plural

_LEFT, _RIGHT = 10.5, 1.0
"""Percent of the drawing's width beside the bars."""
_TOP, _BASE, _HEIGHT = 34, 190, 232
"""Pixels from the top: of the tallest bar, of the base line, of the end of the drawing."""
_FILLED = 0.84
"""Share of its bin that a bar is wide."""
_SMALLEST = 0.5
"""Counts at the base line: below 1, so that a single one shows."""


@dataclass(frozen=True, kw_only=True)
class Bins:
    """What a histogram counts."""

    title: str
    axis: str
    """What is counted by, with its unit."""
    counted: str
    """What is counted, in singular."""
    edges: tuple[str, ...]
    """Names of the edges, in rising order."""
    counts: tuple[int, ...]
    """One more than edges."""
    bad_from: int | None = None
    """The first bin of what must not be; None where nothing is."""

    def names(self) -> list[str]:
        """Return what every bin holds, in words."""
        between = [f"{low} to {high}" for low, high in zip(self.edges, self.edges[1:])]  # noqa: B905 - pairs of neighbours
        return [f"below {self.edges[0]}", *between, f"{self.edges[-1]} or more"]


def histogram(bins: Bins) -> Markup:
    """Draw a histogram with a logarithmic height, and all counts as a table below it."""
    decades = max(1, math.ceil(math.log10(max(*bins.counts, 2))))
    named = list(zip(bins.names(), bins.counts, strict=True))
    said = f"{bins.title}. " + "; ".join(f"{name}: {count(number)}" for name, number in named)
    drawing = tag(
        "svg",
        tag("title", said),
        tag("g", *_grid(decades), class_="grid"),
        *_verdicts(bins),
        *(_bar(bins, place, decades) for place in range(len(bins.counts))),
        *_edges(bins),
        height=_HEIGHT,
        role="img",
        aria_label=said,
        class_="histogram",
    )
    caption = (
        f"{plural(sum(bins.counts), bins.counted)} by {bins.axis}. "
        "Heights are logarithmic; the number above a bar is its count."
    )
    return tag(
        "figure", tag("h3", bins.title), drawing, tag("figcaption", caption), _counts(bins, named)
    )


def _counts(bins: Bins, named: Sequence[tuple[str, int]]) -> Markup:
    columns = [Column(title=bins.axis, number=False), Column(title=f"{bins.counted}s")]
    rows = [(name, count(number)) for name, number in named]
    return tag("details", tag("summary", "All counts"), table(bins.title, columns, rows))


def _x(bins: Bins, place: float) -> str:
    width = 100 - _LEFT - _RIGHT
    return f"{_LEFT + place * width / len(bins.counts):.2f}%"


def _y(number: float, decades: int) -> float:
    share = math.log10(number / _SMALLEST) / (decades - math.log10(_SMALLEST))
    return _BASE - share * (_BASE - _TOP)


def _grid(decades: int) -> list[Markup]:
    lines = []
    for power in range(decades + 1):
        y = _y(10**power, decades)
        lines.append(tag("line", x1=f"{_LEFT:g}%", x2=f"{100 - _RIGHT:g}%", y1=y, y2=y))
        lines.append(
            tag("text", compact(10**power), x=f"{_LEFT - 1.2:g}%", y=y + 4, text_anchor="end")
        )
    return lines


def _bar(bins: Bins, place: int, decades: int) -> Markup:
    number = bins.counts[place]
    top = _y(number, decades) if number else _BASE
    bad = bins.bad_from is not None and place >= bins.bad_from
    width = _FILLED * (100 - _LEFT - _RIGHT) / len(bins.counts)
    shape = tag(
        "rect",
        tag("title", f"{bins.names()[place]}: {count(number)}"),
        x=_x(bins, place + (1 - _FILLED) / 2),
        y=top,
        width=f"{width:.2f}%",
        height=_BASE - top,
        class_="bad" if bad else "bar",
    )
    label = tag(
        "text",
        compact(number),
        x=_x(bins, place + 0.5),
        y=top - 5,
        text_anchor="middle",
        class_="count" if number else "none",
    )
    return tag("g", shape, label)


def _edges(bins: Bins) -> list[Markup]:
    marks = [
        tag("line", x1=f"{_LEFT:g}%", x2=f"{100 - _RIGHT:g}%", y1=_BASE, y2=_BASE, class_="base")
    ]
    for place, name in enumerate(bins.edges, start=1):
        x = _x(bins, place)
        marks.append(tag("line", x1=x, x2=x, y1=_BASE, y2=_BASE + 5, class_="base"))
        marks.append(tag("text", name, x=x, y=_BASE + 18, text_anchor="middle"))
    marks.append(
        tag("text", bins.axis, x="50%", y=_HEIGHT - 6, text_anchor="middle", class_="axis-name")
    )
    return marks


def _verdicts(bins: Bins) -> list[Markup]:
    """Draw the border behind which nothing should be."""
    if bins.bad_from is None:
        return []
    x = _x(bins, bins.bad_from)
    return [
        tag("line", x1=x, x2=x, y1=_TOP - 16, y2=_BASE, class_="border"),
        tag("text", "explained", x=f"{_LEFT:g}%", y=11),
        tag("text", "unexplained", x=f"{100 - _RIGHT:g}%", y=11, text_anchor="end"),
    ]
