"""A comparison as a page: its drawings, and the values of its template."""

from __future__ import annotations

from apot_export._version import VERSION
from apot_export.inspection import charts
from apot_export.inspection.compare import ExportComparison, Results
from apot_export.inspection.compare_views import comparison_views, sentences
from apot_export.presentation.charts import IntervalChart, Rate
from apot_export.presentation.frame import render


def render_comparison(found: ExportComparison) -> str:
    """Return how two exports differ as a complete HTML5 document in one file.

    It loads nothing, runs no script, and shows every name as text. The same comparison gives the
    same page.
    """
    layers, sizes = comparison_views(found)
    return render(
        __package__,
        "comparison.html",
        version=VERSION,
        found=found,
        names=[path.name or str(path) for path in (found.first, found.second)],
        layers=layers,
        differing=charts.difference_chart(found) if found.layers else None,
        sizes=sizes,
        energy=charts.compared_energy_chart(*found.costs),
        sentences=[] if found.results is None else [*sentences(found.results)],
        top1=None if found.results is None else _top1(found.results),
    )


def _top1(found: Results) -> IntervalChart | None:
    rates = [
        Rate(name, side.top1, side.top1_interval, reference=name == "A")
        for name, side in (("A", found.first), ("B", found.second.side))
        if side.top1 is not None and side.top1_interval is not None
    ]
    return IntervalChart("top-1", rates) if rates else None
