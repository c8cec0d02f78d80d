"""The main tables of an inspection for papers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from apot_export.inspection import layer_views, views
from apot_export.presentation.latex import PREAMBLE, latex_table
from apot_export.presentation.tables import View

if TYPE_CHECKING:
    from apot_export.inspection.opened import Inspection


def latex_tables(found: Inspection) -> str:
    """Return the tables of what lies at a path in LaTeX, each in a float of its own.

    Quantization, cost in all and by layer, levels, weights where the checkpoint is known,
    thresholds, and bits.

    Raises:
        ApotExportError: What lies there is damaged, or has no network.
    """
    return "\n".join([PREAMBLE, *(latex_table(view, title) for title, view in _views(found))])


def _views(found: Inspection) -> Iterator[tuple[str, View]]:
    cost, (errors, _) = found.cost, found.weights_if_known()
    for view in [*views.overview_views(found.overview)][1:-1]:
        yield "Quantization.", view
    yield "An image as stored, in int8 and in float32.", layer_views.forms_view(cost)
    yield "Cost of an image by layer.", layer_views.cost_view(found.path, cost)
    yield "Use of levels by layer.", layer_views.levels_view(found.path, found.levels)
    if errors is not None:
        title = "Weights before and after quantization."
        yield title, layer_views.weights_view(found.path, errors)
    if found.stored_alphas.layers:
        yield "Clipping thresholds by layer.", views.alphas_view(found.stored_alphas)
    yield "Bits and bytes by layer.", views.bits_view(found.bits)
