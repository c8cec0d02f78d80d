"""The one printer of tables: on a terminal, in a log, as plain columns, as CSV.

No cell is ever cut: columns that do not fit leave whole, and names are folded.
"""

from __future__ import annotations

import csv
import io
import math
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import typer
from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.text import Text

from apot_export.errors import visible
from apot_export.presentation.tables import Column, View, fitting

from ._render import is_terminal

_GAP = "  "
_BAR_WIDTH = 16
_COLUMNS, _DIGITS = " ▁▂▃▄▅▆▇█", " 123456789"
_MOST_DRAWN = 64
"""Counts that a terminal shows beside each other."""
_NARROWEST_NAME = 12
_UNKNOWN = "-"


def print_view(console: Console, view: View, *, wide: bool) -> None:
    """Print a view in the width of a console; `wide`, or no terminal: every column."""
    if view.title:
        console.print(Text(visible(view.title), "bold"), soft_wrap=True)
    print_facts(console, view.facts)
    if view.rows:
        left_out = _print_table(console, view, wide=wide or not is_terminal())
        if left_out:
            print_text(console, f"Left out in this width (--wide shows them): {left_out}.")
        if view.notes or view.hints:
            console.print()
    for note in (*view.notes, *view.hints):
        print_text(console, note)


def print_facts(console: Console, facts: Iterable[tuple[str, str]]) -> None:
    """Print (name, value) pairs, the values below each other."""
    facts = list(facts)
    width = max((len(name) for name, _ in facts), default=0)
    for name, value in facts:
        lines = _wrapped(visible(value), console.width - width - len(_GAP))
        for number, line in enumerate(lines):
            head = Text((name if number == 0 else "").ljust(width), "dim")
            console.print(Text.assemble(head, _GAP, line), soft_wrap=True)


def print_text(console: Console, text: str) -> None:
    """Print a sentence, broken between words alone."""
    for line in _wrapped(visible(text), console.width):
        console.print(line, soft_wrap=True)


def print_csv(view: View) -> None:
    """Print the rows with all their digits, comma-separated, below a line of names."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [column for column in view.columns if column.draw is None]
    writer.writerow(column.key for column in columns)
    writer.writerows([row[column.key] for column in columns] for row in view.rows)
    typer.echo(text.getvalue(), nl=False)


def print_plain(view: View) -> None:
    """Print the rows as columns between spaces, without units, marks and colours."""
    columns = [column for column in view.columns if column.draw is None]
    cells = [[column.key for column in columns]]
    cells += [[_plain(row[column.key]) for column in columns] for row in view.rows]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        typer.echo(_line(line, widths, [column.left for column in columns]).rstrip())


def _plain(value: object) -> str:
    if value is None:
        return _UNKNOWN
    return visible(f"{value:.6g}" if isinstance(value, float) else str(value))


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(width, 20), break_long_words=False, break_on_hyphens=False) or [
        ""
    ]


def _print_table(console: Console, view: View, *, wide: bool) -> str:
    """Print the columns that fit; return the titles of the others."""
    shown = [_cells(column, view.rows, console) for column in view.columns]
    widths = [max(map(cell_len, cells)) for cells in shown]
    kept = [*range(len(shown))]
    if not wide:
        kept = fitting(view.columns, widths, len(_GAP), console.width)
    others = _width(widths[i] for i in kept[1:]) + len(_GAP)
    if not wide:
        widths[0] = min(widths[0], max(_NARROWEST_NAME, console.width - others))
    left = [view.columns[i].left or view.columns[i].draw is not None or i == 0 for i in kept]
    for number, row in enumerate(zip(*(shown[i] for i in kept), strict=True)):
        folded = chop_cells(row[0], widths[0]) or [""]
        for part, name in enumerate(folded):
            cells = [name, *(cell if part == 0 else "" for cell in row[1:])]
            line = _line(cells, [widths[i] for i in kept], left).rstrip()
            console.print(Text(line, "bold" if number == 0 else ""), soft_wrap=True)
        if number == 0:
            rule = "─" if console.encoding.startswith("utf") else "-"
            total = _width(widths[i] for i in kept)
            console.print(Text(rule * total, "dim"), soft_wrap=True)
    return "; ".join(view.columns[i].title for i in range(len(shown)) if i not in kept)


def _cells(column: Column, rows: Sequence[Mapping[str, Any]], console: Console) -> list[str]:
    """Return a column's title and cells."""
    cells, blocks = [column.title], console.encoding.startswith("utf")
    for row in rows:
        value = row[column.key]
        if value is None:
            cells.append("")
        elif column.draw is not None:
            cells.append(_DRAWN[column.draw](value, blocks))
        else:
            cells.append(visible(column.show(value)))
    return cells


def _bar(share: float, blocks: bool) -> str:
    return ("█" if blocks else "#") * round(share * _BAR_WIDTH)


def _profile(counts: Sequence[int], blocks: bool) -> str:
    """Draw counts as columns, by the square root of each: one that is not 0 shows."""
    if len(counts) > _MOST_DRAWN:
        return ""
    marks = _COLUMNS if blocks else _DIGITS
    most = max(counts, default=0) or 1
    return "".join(marks[math.ceil(math.sqrt(count / most) * (len(marks) - 1))] for count in counts)


_DRAWN: dict[str, Callable[[Any, bool], str]] = {"bar": _bar, "profile": _profile}


def _width(widths: Iterator[int]) -> int:
    found = list(widths)
    return sum(found) + len(_GAP) * (len(found) - 1)


def _line(cells: Sequence[str], widths: Sequence[int], left: Sequence[bool]) -> str:
    padded = []
    for cell, width, is_left in zip(cells, widths, left, strict=True):
        space = " " * (width - cell_len(cell))
        padded.append(cell + space if is_left else space + cell)
    return _GAP.join(padded)
