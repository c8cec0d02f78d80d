"""How `inspect` prints a view, and what it writes beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import typer

from ._options import General

if TYPE_CHECKING:
    from apot_export.inspection.opened import Inspection
    from apot_export.presentation.tables import View


@dataclass(frozen=True)
class Shown:
    """How a view is printed."""

    PANEL: ClassVar[str] = "Output"

    csv: Annotated[bool, "Print the rows as CSV, with all digits."] = False
    plain: Annotated[
        bool,
        "Print columns of bare numbers; of alphas and bits, the lines of the training log.",
    ] = False
    wide: Annotated[
        bool, "Print all columns, however wide; so it is where the output is no terminal."
    ] = False


@dataclass(frozen=True)
class Pictures:
    """What is written beside the overview."""

    PANEL: ClassVar[str] = "Pictures"

    html: Annotated[
        Path | None,
        "Write all views, with drawings of the network, its levels, costs and memory, as one "
        "self-contained page, too.",
    ] = None

    png: Annotated[
        Path | None,
        "Write the drawings for a paper into this folder, one column wide, 300 dots an inch; needs "
        "pip install 'apot-export[plot]'.",
    ] = None
    svg: Annotated[Path | None, "Likewise, as SVG."] = None
    latex: Annotated[Path | None, "Write the tables in LaTeX, with booktabs."] = None

    def require_writable(self) -> None:
        """Raise `ExportError` unless the files can be written."""
        from ._page import require_writable

        require_writable(self.html)
        require_writable(self.latex, "--latex")

    def write(self, found: Inspection) -> None:
        """Write what is wanted."""
        from ._page import write_text

        folders: dict[Literal["png", "svg"], Path | None] = {"png": self.png, "svg": self.svg}
        for kind, folder in folders.items():
            if folder is not None:
                from apot_export.inspection.plots import write_plots

                write_plots(found, folder, kind)
        if self.html is not None:
            from apot_export.inspection.page import render_page

            write_text(self.html, render_page(found))
        if self.latex is not None:
            from apot_export.inspection.latex import latex_tables

            write_text(self.latex, latex_tables(found))


def show(
    content: Any,
    general: General,
    shown: Shown,
    views: Callable[[], Iterable[View]],
    *,
    lines: Callable[[], Iterable[str]] | None = None,
    flat: Callable[[], View] | None = None,
) -> None:
    """Print what was found.

    Args:
        content: Its JSON form.
        general: Whether that is wanted.
        shown: How to print it else.
        views: Its tables.
        lines: Its lines in a log, for `--plain`.
        flat: The table of CSV and plain columns; None for the first of the tables.
    """
    if general.as_json:
        typer.echo(json.dumps(content, indent=2))
        return
    if shown.plain and lines is not None:
        for line in lines():
            typer.echo(line)
        return
    from ._render import console_of_output
    from ._tables import print_csv, print_plain, print_view

    if shown.csv or shown.plain:
        view = flat() if flat is not None else next(iter(views()))
        (print_csv if shown.csv else print_plain)(view)
        return
    console = console_of_output()
    for number, view in enumerate(views()):
        if number:
            console.print()
        print_view(console, view, wide=shown.wide)
