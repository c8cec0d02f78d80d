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
    general: General,
) -> None:
    """Compare two exports: codes and weights of every layer, sizes, results on the same images.

    With --dataset, --data or --images both run on these images, by the native kernels where there
    is a C compiler.
    """
    with reported(general):
        from apot_export.inspection.compare import compare as compare_exports

        from ._progress import working

        with working(f"Comparing {first} and {second}", quiet=general.quiet) as work:
            found = compare_exports(first, second, progress=work, **shown.arguments())
        if not printed(found, general):
            from ._render_compare import print_comparison

            print_comparison(found)
