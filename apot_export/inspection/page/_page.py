"""An inspection as a page: its drawings, and the values of its template."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from apot_export._version import VERSION
from apot_export.errors import ApotExportError
from apot_export.inspection import layer_views, views
from apot_export.inspection.cost import TABLES, Cost, value_bits
from apot_export.inspection.distributions import distributions
from apot_export.inspection.drawing import drawing
from apot_export.inspection.page._drawings import LevelsDrawing, MemoryDrawing, NetworkDrawing
from apot_export.inspection.thresholds import Thresholds, thresholds_of
from apot_export.inspection.weights import WeightErrors
from apot_export.inspection.widths import Widths
from apot_export.network.memory_plan import activations, bytes_of
from apot_export.presentation.columns import ColumnChart
from apot_export.presentation.frame import render

if TYPE_CHECKING:
    from apot_export.inspection.opened import Inspection

_NANO = 1000
"""Picojoules."""


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
    errors, missing = _weights(found)
    pictures = distributions(network, None if errors is None else found.source)
    thresholds = Thresholds(
        source=found.path, family=found.overview.family or "", layers=thresholds_of(network)
    )
    storages = activations(network, value_bits(network))
    return {
        "cost": cost,
        "network": NetworkDrawing(drawing(network)),
        "levels": [
            LevelsDrawing(picture, layer)
            for picture, layer in zip(pictures, found.levels.layers, strict=True)
        ],
        "levels_view": layer_views.levels_view(found.path, found.levels),
        "errors": None if errors is None else error_chart(errors),
        "weights_view": None if errors is None else layer_views.weights_view(found.path, errors),
        "missing": missing,
        "thresholds": threshold_charts(thresholds),
        "alphas_view": views.alphas_view(thresholds),
        "energy": energy_chart(cost),
        "cost_view": layer_views.cost_view(found.path, cost),
        "forms_view": layer_views.forms_view(cost),
        "bytes": bytes_chart(found.bits),
        "bits_view": views.bits_view(found.bits),
        "memory": MemoryDrawing(storages, bytes_of(storages)),
    }


def _weights(found: Inspection) -> tuple[WeightErrors | None, ApotExportError | None]:
    """Return the errors of weights, or why they are not known."""
    try:
        return found.weights, None
    except ApotExportError as error:
        if found.statement.checkpoint is not None or found.kind == "checkpoint":
            raise
        return None, error


# --- charts ---------------------------------------------------------------------------------------


def energy_chart(cost: Cost) -> ColumnChart:
    """Return the energy of every layer's operations, beside int8."""
    table = TABLES[0]
    return ColumnChart(
        title=f"Energy of a layer's operations, {table.name}",
        axis="nanojoules",
        names=[layer.layer for layer in cost.layers],
        values=[layer.energy(table) / _NANO for layer in cost.layers],
        beside=[table.int8(layer.macs) / _NANO for layer in cost.layers],
        beside_is="int8",
    )


def bytes_chart(found: Widths) -> ColumnChart:
    """Return the bytes of every layer's weights."""
    return ColumnChart(
        title="Bytes of a layer's weights",
        axis="bytes",
        names=[layer.layer for layer in found.layers],
        values=[layer.stored_bits / 8 for layer in found.layers],
        show="{:,.0f}".format,
    )


def error_chart(found: WeightErrors) -> ColumnChart:
    """Return how far the weights of every layer lie above the error of quantization."""
    return ColumnChart(
        title="Weights above the error of quantization (SQNR)",
        axis="dB",
        names=[layer.layer for layer in found.layers],
        values=[layer.sqnr for layer in found.layers],
        show="{:.2f}".format,
    )


def threshold_charts(found: Thresholds) -> list[ColumnChart]:
    """Return the magnitudes of all thresholds: of weights, of activations."""
    if not found.layers:
        return []
    names = [layer.layer for layer in found.layers]
    return [
        ColumnChart(
            title=f"Clipping thresholds of {what}",
            axis="magnitude of alpha",
            names=names,
            values=values,
        )
        for what, values in (
            ("weights", [abs(layer.weight_alpha) for layer in found.layers]),
            ("activations", [abs(layer.activation_alpha) for layer in found.layers]),
        )
    ]
