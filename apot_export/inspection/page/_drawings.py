"""Coordinates of the drawings of a network, of its levels and of its memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from apot_export.inspection.distributions import BINS, Distribution
from apot_export.inspection.drawing import Drawing
from apot_export.inspection.levels import LayerLevels
from apot_export.network.memory_plan import Storage
from apot_export.presentation.columns import round_ticks, tick_name

# --- the network ----------------------------------------------------------------------------------

_ROW, _STEP = 34, 46
"""Pixels: height of a row, and from one row to the next."""
_LANE, _MOST_LANES = 10, 10
_ARROW = 24
"""Pixels from the left side of a box to the arrow into the next."""
_LONGEST = 30
"""Characters of a name in a box."""


class Path(NamedTuple):
    """A line and its arrowhead."""

    line: str
    head: str


@dataclass(frozen=True)
class NetworkDrawing:
    """A network's drawing; heights and the left part in pixels, the rest in percent."""

    drawing: Drawing

    row = _ROW

    @property
    def height(self) -> int:
        """Pixels of the whole."""
        return len(self.drawing.rows) * _STEP

    @cached_property
    def left(self) -> float:
        """Pixels from the left side to the boxes."""
        return 12 + _LANE * min(self.drawing.lanes, _MOST_LANES)

    def top(self, place: int) -> int:
        """Return the pixels from the top to a row."""
        return place * _STEP + 6

    @property
    def arrows(self) -> list[Path]:
        """Arrows from each row to the next that reads it."""
        x = self.left + _ARROW
        return [
            Path(f"M{x:g} {self.top(place - 1) + _ROW}v{_STEP - _ROW}", _head(x, self.top(place)))
            for place, row in enumerate(self.drawing.rows)
            if place - 1 in row.reads
        ]

    @property
    def skips(self) -> list[Path]:
        """Lines of the values that pass rows by."""
        width = (self.left - 12) / max(self.drawing.lanes, 1)
        found = []
        for start, end, lane in self.drawing.skips:
            x = self.left - 6 - (lane + 0.5) * width
            top, bottom = self.top(start) + _ROW * 2 // 3, self.top(end) + _ROW // 3
            line = f"M{self.left:g} {top}H{x:g}V{bottom}H{self.left:g}"
            head = f"M{self.left - 5:g} {bottom - 3}l5 3-5 3z"
            found.append(Path(line, head))
        return found

    @property
    def blocks(self) -> list[tuple[int, int, int]]:
        """Top, height and number of every block that repeats."""
        return [
            (self.top(start) - 5, (end - start) * _STEP + _ROW + 10, times)
            for start, end, times in self.drawing.blocks
        ]

    @staticmethod
    def short(name: str) -> str:
        """Return a name, or the end of a long one."""
        return name if len(name) <= _LONGEST else "…" + name[1 - _LONGEST :]


def _head(x: float, y: float) -> str:
    return f"M{x - 3:g} {y - 5:g}l3 5 3-5z"


# --- levels and weights of a layer ----------------------------------------------------------------

_WIDE, _HIGH = 1000, 100
"""Units of a layer's drawing, stretched to its place."""


@dataclass(frozen=True)
class LevelsDrawing:
    """The weights of a layer before quantization, and how many have each level."""

    found: Distribution
    levels: LayerLevels

    @property
    def weights(self) -> str:
        """The outline of the weights' histogram; empty where they are not known."""
        counts = self.found.weights
        if counts is None:
            return ""
        most, width = max(counts) or 1, _WIDE / BINS
        steps = "".join(
            f"V{round(_HIGH * (1 - count / most))}H{round((place + 1) * width)}"
            for place, count in enumerate(counts)
        )
        return f"M0 {_HIGH}{steps}V{_HIGH}z"

    @property
    def stems(self) -> str:
        """A line for every level that weights have, as high as they are many."""
        most = max((count for _, count in self.found.levels), default=0) or 1
        highest: dict[int, float] = {}
        for value, count in self.found.levels:
            if count:
                x = self._x(value)
                highest[x] = max(highest.get(x, 0), count / most)
        return "".join(f"M{x} {_HIGH}V{round(_HIGH * (1 - share))}" for x, share in highest.items())

    @property
    def marks(self) -> str:
        """A short line below the axis for every level, used or not."""
        places = sorted({self._x(value) for value, _ in self.found.levels})
        return "".join(f"M{x} {_HIGH}v8" for x in places)

    @property
    def ends(self) -> list[tuple[str, str, float]]:
        """Position, anchor and number at the ends of the axis."""
        return [("0%", "start", -self.found.reach), ("100%", "end", self.found.reach)]

    @property
    def says(self) -> str:
        """What the drawing shows, in words."""
        found = self.levels
        if found.entropy is None:
            return f"{found.kind}, {found.zeros:.1%} zeros"
        dead = f", {len(found.dead)} dead" if found.dead else ""
        what = "levels" if self.found.levels else "numbers of vectors"
        return (
            f"{len(found.histogram)} {what}{dead}; entropy {found.entropy:.2f} bits, "
            f"{found.zeros:.1%} zeros"
        )

    def _x(self, value: float) -> int:
        return round((value / self.found.reach + 1) * _WIDE / 2)


# --- memory ---------------------------------------------------------------------------------------

_TOP, _BASE = 12, 210


class Bytes(NamedTuple):
    """A rectangle of the memory's drawing, in instructions and bytes."""

    x: int
    y: int
    width: int
    height: int
    says: str


@dataclass(frozen=True)
class MemoryDrawing:
    """Which bytes hold a value, from the image on to the last node."""

    storages: Sequence[Storage]
    peak: int
    """Bytes."""

    top, base = _TOP, _BASE

    @property
    def steps(self) -> int:
        """Instructions: one gives the image, then there is one for each node."""
        return max(storage.death for storage in self.storages) + 1

    @property
    def rectangles(self) -> list[Bytes]:
        """A rectangle for each storage."""
        return [
            Bytes(
                x=one.birth,
                y=self.peak - one.offset - one.size,
                width=one.death - one.birth + 1,
                height=one.size,
                says=f"{one.values[0]}: {one.size:,} bytes",
            )
            for one in self.storages
        ]

    @property
    def grid(self) -> list[tuple[float, str]]:
        """Height and name of round numbers of bytes."""
        return [
            (round(_BASE - tick / self.peak * (_BASE - _TOP), 1), tick_name(tick))
            for tick in round_ticks(self.peak)
            if tick <= self.peak
        ]
