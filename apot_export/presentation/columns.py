"""Columns side by side, one for each layer, and places on a linear axis from 0."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from apot_export.presentation.numbers import compact

_LEFT, _RIGHT = 12.5, 99.0
"""Percent of the drawing's width where the columns begin and end."""
_TOP, _BASE = 12, 170
"""Pixels from the top: of the highest tick, of the base line."""
_FILLED = 0.8
_MOST_TICKS = 6
_MOST_NAMES = 8
"""Ticks of either axis."""


def round_ticks(largest: float) -> list[float]:
    """Return round places from 0 to the first that is no less than a number.

    >>> round_ticks(139264), round_ticks(0.7)
    ([0.0, 50000.0, 100000.0, 150000.0], [0.0, 0.2, 0.4, 0.6, 0.8])
    """
    if not 0 < largest < math.inf:
        return [0.0, 1.0]
    power = math.floor(math.log10(largest)) - 1
    steps = (digit * 10.0**exponent for exponent in (power, power + 1) for digit in (1, 2, 5))
    step = next(one for one in steps if math.ceil(largest / one) < _MOST_TICKS)
    return [float(f"{place * step:.12g}") for place in range(math.ceil(largest / step) + 1)]


class LayerColumn(NamedTuple):
    """A column, and what it is compared with."""

    says: str
    x: str
    end: str
    width: str
    y: float
    height: float
    mark: float | None
    """Height from the top of the value beside it."""


@dataclass(frozen=True, kw_only=True)
class ColumnChart:
    """A number of each layer, in order of computation."""

    title: str
    axis: str
    """The quantity, with its unit."""
    names: Sequence[str]
    values: Sequence[float | None]
    beside: Sequence[float] | None = None
    """A second number of each layer, drawn as a line across its column."""
    beside_is: str = ""
    show: Callable[[float], str] = "{:,.4g}".format

    left, right, base = f"{_LEFT}%", f"{_RIGHT}%", _BASE

    @cached_property
    def ticks(self) -> list[float]:
        """Round numbers up to the largest."""
        every = [*self.values, *(self.beside or ())]
        return round_ticks(max((value for value in every if value is not None), default=0.0))

    @property
    def grid(self) -> list[tuple[float, str]]:
        """Height and name of every tick."""
        return [(self._y(tick), tick_name(tick)) for tick in self.ticks]

    @property
    def numbers(self) -> list[tuple[str, int]]:
        """Position and number of some layers, the first being 1."""
        step = next(
            digit * 10**power
            for power in range(9)
            for digit in (1, 2, 5)
            if len(self.names) // (digit * 10**power) < _MOST_NAMES
        )
        places = {1, *range(step, len(self.names) + 1, step)}
        if step > 1:
            places.discard(2)  # it would touch the 1
        return [(self._x(place - 0.5), place) for place in sorted(places)]

    @property
    def columns(self) -> list[LayerColumn]:
        """The columns from left to right."""
        found = []
        margin = (1 - _FILLED) / 2
        for place, (name, value) in enumerate(zip(self.names, self.values, strict=True)):
            beside = None if self.beside is None else self.beside[place]
            says = f"{place + 1}, {name}: {'none' if value is None else self.show(value)}"
            if beside is not None:
                says += f"; {self.beside_is}: {self.show(beside)}"
            y = self._y(value or 0.0)
            found.append(
                LayerColumn(
                    says=says,
                    x=self._x(place + margin),
                    end=self._x(place + 1 - margin),
                    width=f"{_FILLED * (_RIGHT - _LEFT) / len(self.names):.2f}%",
                    y=y,
                    height=round(_BASE - y, 1),
                    mark=None if beside is None else self._y(beside),
                )
            )
        return found

    def _x(self, place: float) -> str:
        return f"{_LEFT + place * (_RIGHT - _LEFT) / max(len(self.names), 1):.2f}%"

    def _y(self, value: float) -> float:
        share = max(value, 0.0) / self.ticks[-1]
        return round(_BASE - share * (_BASE - _TOP), 1)


def tick_name(tick: float) -> str:
    """Return a tick's name, short.

    >>> tick_name(150000.0), tick_name(0.2)
    ('150k', '0.2')
    """
    return compact(round(tick)) if tick == round(tick) else f"{tick:g}"
