"""Coordinates of drawings: percent of the width, pixels of the height, so text keeps its size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

# --- histograms -----------------------------------------------------------------------------------

_LEFT, _RIGHT = 10.5, 99.0
"""Percent of the drawing's width where the bars begin and end."""
_TOP, _BASE = 34, 190
"""Pixels from the top: of the tallest bar, of the base line."""
_FILLED = 0.84
"""Share of its bin that a bar is wide."""
_SMALLEST = 0.5
"""Count at the base line: below 1, so that a single one is visible."""


class Bar(NamedTuple):
    """A bar of a histogram."""

    name: str
    number: int
    x: str
    middle: str
    y: float
    width: str
    height: float
    bad: bool


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Counts between edges, with a logarithmic height."""

    title: str
    axis: str
    """The quantity on the horizontal axis, with its unit."""
    counted: str
    """What is counted, in singular."""
    edges: Sequence[str]
    """Names of the edges, in rising order."""
    counts: Sequence[int]
    """One more than edges."""
    bad_from: int | None = None
    """The first bin of counts that should be zero; None where no bin is bad."""
    sides: tuple[str, str] = ("", "")
    """Labels of the bins before and from `bad_from`."""

    left, right, base = f"{_LEFT}%", f"{_RIGHT}%", _BASE

    @property
    def bars(self) -> list[Bar]:
        """The bars from left to right."""
        between = [f"{low} to {high}" for low, high in pairwise(self.edges)]
        names = [f"below {self.edges[0]}", *between, f"{self.edges[-1]} or more"]
        return [
            Bar(
                name=name,
                number=count,
                x=self._x(place + (1 - _FILLED) / 2),
                middle=self._x(place + 0.5),
                y=self._y(count),
                width=f"{_FILLED * (_RIGHT - _LEFT) / len(names):.2f}%",
                height=round(_BASE - self._y(count), 2),
                bad=self.bad_from is not None and place >= self.bad_from,
            )
            for place, (name, count) in enumerate(zip(names, self.counts, strict=True))
        ]

    @property
    def grid(self) -> list[tuple[float, int]]:
        """Height and count of every grid line."""
        return [(self._y(10**power), 10**power) for power in range(self._decades + 1)]

    @property
    def marks(self) -> list[tuple[str, str]]:
        """Position and name of every edge."""
        return [(self._x(place), name) for place, name in enumerate(self.edges, start=1)]

    @property
    def border(self) -> str | None:
        """Position of the border to the bad bins."""
        return None if self.bad_from is None else self._x(self.bad_from)

    @property
    def _decades(self) -> int:
        return max(1, math.ceil(math.log10(max(*self.counts, 2))))

    def _x(self, place: float) -> str:
        return f"{_LEFT + place * (_RIGHT - _LEFT) / len(self.counts):.2f}%"

    def _y(self, count: int) -> float:
        smallest = math.log10(_SMALLEST)
        share = (math.log10(count or _SMALLEST) - smallest) / (self._decades - smallest)
        return round(_BASE - share * (_BASE - _TOP), 2)


# --- rates with intervals -------------------------------------------------------------------------

_STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
"""Distances of ticks, in hundredths of a percent."""
_MOST_TICKS = 6
_WHOLE = 10_000
_MARGIN = 8.0
"""Percent of a drawing's width left free on both sides of the axis, for half a label."""


class Rate(NamedTuple):
    """A row of an interval chart; rates are fractions in [0, 1]."""

    name: str
    value: float
    interval: tuple[float, float]
    word: str | None = None
    """The name on the command line, shown beside `name`."""
    reference: bool = False
    """A reference (drawn hollow) rather than what is judged."""


@dataclass(frozen=True)
class IntervalChart:
    """Rates with their confidence intervals, on one axis."""

    what: str
    """What the rates are of; the axis is named so."""
    rates: Sequence[Rate]

    @cached_property
    def ticks(self) -> list[float]:
        """Round rates around all intervals."""
        lows, highs = zip(*(rate.interval for rate in self.rates), strict=True)
        return [tick / _WHOLE for tick in _ticks(min(lows), max(highs))]

    def place(self, rate: float) -> str:
        """Return the position of a rate."""
        share = (rate - self.ticks[0]) / (self.ticks[-1] - self.ticks[0])
        return f"{_MARGIN + share * (100 - 2 * _MARGIN):.2f}%"

    def label(self, tick: float) -> str:
        """Return a tick as a percentage with as many digits as the ticks need."""
        step = round((self.ticks[1] - self.ticks[0]) * _WHOLE)
        digits = 0 if step % 100 == 0 else 1 if step % 10 == 0 else 2
        return f"{tick:.{digits}%}"


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


# --- a value against its bound --------------------------------------------------------------------

_LONGEST = 6.0
"""Bounds that the gauge shows at most."""


@dataclass(frozen=True)
class Gauge:
    """A value in units of its bound."""

    ratio: float
    """Not negative; may be infinite or NaN."""

    @property
    def _end(self) -> float:
        return min(_LONGEST, max(1.25, self.ratio * 1.1))

    @property
    def within(self) -> bool:
        """Whether the value lies within its bound; NaN does not."""
        return self.ratio <= 1

    @property
    def cut(self) -> bool:
        """Whether the value lies beyond the end of the drawing."""
        return self.ratio > self._end

    @property
    def filled(self) -> str:
        """The value's position; NaN fills the gauge."""
        return f"{100 * min(self.ratio / self._end, 1.0) if self.ratio >= 0 else 100:.2f}%"

    @property
    def bound(self) -> str:
        """The bound's position."""
        return f"{100 / self._end:.2f}%"
