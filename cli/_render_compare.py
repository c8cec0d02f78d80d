"""Two exports side by side, as people read them in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apot_export.inspection.compare_views import comparison_views, sentences

from ._render import console_of_output, new_table
from ._render_verify import ACCURACY, accuracy_cells
from ._tables import print_text, print_view

if TYPE_CHECKING:
    from apot_export.inspection.compare import ExportComparison


def print_comparison(found: ExportComparison) -> None:
    """Show how two exports differ: layers, sizes and costs, results."""
    console = console_of_output()
    for view in comparison_views(found):
        print_view(console, view, wide=False)
        console.print()
    if found.results is None:
        print_text(console, "Nothing was run: name images with --dataset, --data or --images.")
        return
    console.print(f"{found.results.images:,} images of {found.results.dataset}", style="bold")
    table = new_table("", *ACCURACY)
    table.add_row("A", *accuracy_cells(found.results.first))
    table.add_row("B", *accuracy_cells(found.results.second.side))
    console.print(table)
    for line in sentences(found.results):
        print_text(console, line)
