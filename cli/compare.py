"""`apot-export compare`: how two exports differ."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._errors import reported
from ._options import General, RunImages, printed


def compare(
    first: Annotated[Path, typer.Argument(help="Export directory or packed file.")],
    second: Annotated[Path, typer.Argument(help="Likewise: of other bits, target or training.")],
    *,
    shown: RunImages,
    html: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel="Output", help="Write the comparison as one self-contained page, too."
        ),
    ] = None,
    general: General,
) -> None:
    """Compare two exports: codes and weights of every layer, sizes, results on the same images.

    With --dataset, --data or --images both run on these images, by the native kernels where there
    is a C compiler.
    """
    with reported(general):
        from apot_export.inspection.compare import compare as compare_exports

        from ._page import require_writable, write_text
        from ._progress import working

        require_writable(html)
        with working(f"Comparing {first} and {second}", quiet=general.quiet) as work:
            found = compare_exports(first, second, progress=work, **shown.arguments())
        if html is not None:
            from apot_export.inspection.page import render_comparison

            write_text(html, render_comparison(found))
        if not printed(found, general):
            from ._render_compare import print_comparison

            print_comparison(found)
