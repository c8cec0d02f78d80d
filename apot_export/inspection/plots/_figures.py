"""Figures of one column, with fixed fonts and without dates: the same numbers, the same bytes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from apot_export.artifacts.atomic import replacing
from apot_export.errors import MissingPackageError, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HIGHEST = 3.5, 9.0
"""Inches: a column of a two-column paper, and what a page holds."""
ACCENT, GREY, INK = "#1b6ca8", "#b9c2cc", "#222222"
_STYLE: dict[str, Any] = {
    "font.family": "STIXGeneral",  # comes with matplotlib, and fits Times
    "text.parse_math": False,  # names of layers are no formulas
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.5,
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "xtick.major.size": 2,
    "ytick.major.size": 2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "apot-export",
    "figure.constrained_layout.use": True,
}
_DOTS = 300
_METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
}
_TALLEST_STEM = 0.9
"""Share of its row."""


class LevelRow(NamedTuple):
    """A row of levels."""

    name: str
    levels: Sequence[tuple[float, float]]
    """(place in [-1, 1], height in [0, 1]) of each."""
    outline: Sequence[tuple[float, float]] = ()
    """Corners of what is filled behind them, in the same units."""
    colour: str = ACCENT


def style() -> AbstractContextManager[None]:
    """Return the context in which figures are made and written.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
    except ModuleNotFoundError as error:
        raise MissingPackageError(error, extra="plot") from error
    return rc_context(_STYLE)


def new_figure(height: float) -> tuple[Figure, Axes]:
    """Return an empty figure, so many inches high, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, min(height, HIGHEST)))
    return figure, figure.add_subplot()


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure as its file's name ends: .png, with 300 dots an inch, or .svg."""
    kind = path.suffix.removeprefix(".")
    with style(), replacing(path) as new, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a box stands for it
        figure.savefig(new, format=kind, dpi=_DOTS, metadata=_METADATA[kind])


def level_rows(rows: Sequence[LevelRow], axis: str, *, ends: tuple[str, str]) -> Figure:
    """Draw levels as stems, a row below the other.

    Args:
        rows: Where the stems stand, how high they are, and what is filled behind them.
        axis: What the places are.
        ends: Names of the places -1 and 1.
    """
    from matplotlib.collections import LineCollection, PolyCollection

    with style():
        figure, axes = new_figure(0.45 + 0.17 * len(rows))
        for place, row in enumerate(reversed(rows)):
            stems = [((x, place), (x, place + _TALLEST_STEM * height)) for x, height in row.levels]
            if row.outline:
                corners = [(x, place + _TALLEST_STEM * height) for x, height in row.outline]
                axes.add_collection(PolyCollection([corners], facecolors=GREY, linewidths=0))
            axes.add_collection(LineCollection(stems, colors=row.colour, linewidths=0.8))
        axes.hlines(range(len(rows)), -1.25, 1.25, colors=GREY, linewidths=0.4, zorder=0)
        label_rows(axes, [visible(row.name) for row in rows])
        axes.set(xlim=(-1.25, 1.25), ylim=(-0.2, len(rows) + 0.1), xlabel=axis)
        axes.set_xticks([-1, 0, 1], [ends[0], "0", ends[1]])
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
    return figure


_MOST_NAMED = 48
"""Rows that have room for their names."""


def label_rows(axes: Axes, names: Sequence[str]) -> None:
    """Name rows from the top down; where they are many, number some."""
    last = len(names) - 1
    if len(names) <= _MOST_NAMED:
        axes.set_yticks([last - place + 0.35 for place in range(len(names))], names, fontsize=7)
        return
    numbers = [1, *range(10, len(names) + 1, 10)]
    axes.set_yticks([last - number + 1.35 for number in numbers], map(str, numbers))
    axes.set_ylabel("layer")
