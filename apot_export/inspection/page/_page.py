"""An inspection as a page: its drawings, and the values of its template."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from apot_export._version import VERSION
from apot_export.inspection import charts, layer_views, views
from apot_export.inspection.cost import value_bits
from apot_export.inspection.distributions import distributions
from apot_export.inspection.drawing import drawing
from apot_export.inspection.page._drawings import LevelsDrawing, MemoryDrawing, NetworkDrawing
from apot_export.network.memory_plan import activations, bytes_of
from apot_export.presentation.frame import render

if TYPE_CHECKING:
    from apot_export.inspection.opened import Inspection


def render_page(found: Inspection) -> str:
    """Return what lies at a path as a complete HTML5 document in one file.

    It loads nothing, runs no script, and shows every name as text. The same inspection gives the
    same page. Of an export, it tells of the weights before quantization where its checkpoint is
    found.

    Raises:
        ApotExportError: What lies there is damaged, or the checkpoint that was stated is not its.
    """
    facts, *tables = views.overview_views(found.overview)
    network = {} if found.overview.cost is None else _of_network(found)
    return render(
        __package__,
        "inspection.html",
        version=VERSION,
        overview=found.overview,
        name=found.path.name or str(found.path),
        facts=facts.facts,
        tables=tables,
        **network,
    )


def _of_network(found: Inspection) -> dict[str, Any]:
    """Return what a network tells beside the overview."""
    network, cost = found.network, found.cost
    errors, missing = found.weights_if_known()
    pictures = distributions(network, None if errors is None else found.source)
    thresholds = found.stored_alphas
    storages = activations(network, value_bits(network))
    return {
        "cost": cost,
        "network": NetworkDrawing(drawing(network)),
        "levels": [
            LevelsDrawing(picture, layer)
            for picture, layer in zip(pictures, found.levels.layers, strict=True)
        ],
        "levels_view": layer_views.levels_view(found.path, found.levels),
        "errors": None if errors is None else charts.error_chart(errors),
        "weights_view": None if errors is None else layer_views.weights_view(found.path, errors),
        "missing": missing,
        "thresholds": charts.threshold_charts(thresholds),
        "alphas_view": views.alphas_view(thresholds),
        "energy": charts.energy_chart(cost),
        "cost_view": layer_views.cost_view(found.path, cost),
        "forms_view": layer_views.forms_view(cost),
        "bytes": charts.bytes_chart(found.bits),
        "bits_view": views.bits_view(found.bits),
        "memory": MemoryDrawing(storages, bytes_of(storages)),
    }
