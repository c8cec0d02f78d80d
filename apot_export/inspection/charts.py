"""Numbers of every layer as columns, which a page and a paper draw."""

from __future__ import annotations

from collections.abc import Sequence

from apot_export.inspection.compare import ExportComparison
from apot_export.inspection.cost import TABLES, Cost
from apot_export.inspection.thresholds import Thresholds
from apot_export.inspection.weights import WeightErrors
from apot_export.inspection.widths import Widths
from apot_export.presentation.columns import ColumnChart

_NANO = 1000
"""Picojoules."""


def energy_chart(cost: Cost) -> ColumnChart:
    """Return the energy of every layer's operations, beside int8."""
    return _energy(cost, [TABLES[0].int8(layer.macs) for layer in cost.layers], "int8")


def compared_energy_chart(one: Cost, other: Cost) -> ColumnChart | None:
    """Return the energy of every layer's operations in two exports; None of other layers."""
    if [layer.layer for layer in one.layers] != [layer.layer for layer in other.layers]:
        return None
    return _energy(one, [layer.energy(TABLES[0]) for layer in other.layers], "B")


def _energy(cost: Cost, beside: Sequence[float], beside_is: str) -> ColumnChart:
    table = TABLES[0]
    return ColumnChart(
        title="Energy of a layer's operations",
        axis=f"nanojoules, {table.name}",
        names=[layer.layer for layer in cost.layers],
        values=[layer.energy(table) / _NANO for layer in cost.layers],
        beside=[energy / _NANO for energy in beside],
        beside_is=beside_is,
    )


def difference_chart(found: ExportComparison) -> ColumnChart:
    """Return how many weights of every layer differ in two exports."""
    return ColumnChart(
        title="Weights that differ",
        axis="percent of a layer's weights",
        names=[layer.layer for layer in found.layers],
        values=[100 * layer.values / layer.weights for layer in found.layers],
        show="{:.2f}".format,
    )


def bytes_chart(found: Widths) -> ColumnChart:
    """Return the bytes of every layer's weights."""
    return ColumnChart(
        title="Bytes of a layer's weights",
        axis="bytes of weights",
        names=[layer.layer for layer in found.layers],
        values=[layer.stored_bits / 8 for layer in found.layers],
        show="{:,.0f}".format,
    )


def error_chart(found: WeightErrors) -> ColumnChart | None:
    """Return how far the weights of every layer lie above the error of quantization, if any do."""
    if all(layer.sqnr is None for layer in found.layers):
        return None
    return ColumnChart(
        title="Weights above the error of quantization (SQNR)",
        axis="SQNR in dB",
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
            axis=f"|alpha| of {what}",
            names=names,
            values=values,
        )
        for what, values in (
            ("weights", [abs(layer.weight_alpha) for layer in found.layers]),
            ("activations", [abs(layer.activation_alpha) for layer in found.layers]),
        )
    ]
