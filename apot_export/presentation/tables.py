"""Tables as data: what a terminal, a page, a CSV file or a paper shows of them is decided there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of numbers, or of text on the left."""

    key: str
    """Name of the rows' value, and in CSV."""
    title: str
    show: Callable[[Any], str] = str
    left: bool = False
    leaves: int = 0
    """Order in which columns leave that do not fit, the smallest first; 0: it stays."""
    draw: Literal["bar", "profile"] | None = None
    """How the value is drawn: a share in [0, 1], or counts beside each other."""


@dataclass(frozen=True, kw_only=True)
class View:
    """A table with sentences before and behind it."""

    columns: Sequence[Column]
    """The first holds names, which fold."""
    rows: Sequence[Mapping[str, Any]]
    title: str = ""
    facts: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()
    hints: Sequence[str] = ()
    """What the command line shows beside it."""


def fitting(columns: Sequence[Column], widths: Sequence[int], gap: int, most: int) -> list[int]:
    """Return the places of the columns that fit into a width beside each other, with gaps.

    Those that leave first go first; what must stay stays, however wide.
    """
    kept = list(range(len(columns)))
    for _, leaving in sorted((c.leaves, place) for place, c in enumerate(columns) if c.leaves):
        if sum(widths[place] + gap for place in kept) - gap <= most:
            break
        kept.remove(leaving)
    return kept


def count(number: float) -> str:
    """Show a count."""
    return f"{number:,}"


def digits(number: float) -> str:
    """Show four digits."""
    return f"{number:.4g}"
