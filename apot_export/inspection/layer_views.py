"""What `inspect` counted and measured of every layer, as tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apot_export.inspection.views import LAYER
from apot_export.presentation.tables import Column, View, count, digits

if TYPE_CHECKING:
    from apot_export.inspection.cost import Cost
    from apot_export.inspection.levels import LayerLevels, Levels
    from apot_export.inspection.weights import WeightErrors

_NANO = 1000
"""Picojoules."""


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _nanojoules(picojoules: float) -> str:
    return f"{picojoules / _NANO:,.1f}"


# --- cost -----------------------------------------------------------------------------------------


def cost_view(path: Path, found: Cost) -> View:
    """Return what every layer costs, with the rows of a total."""
    from apot_export.inspection.cost import RULE, TABLES

    rows = [_cost_row(layer.to_json()) for layer in found.layers]
    summed = (
        {key: sum(row[key] for row in rows) for key in rows[0] if key != "layer"} if rows else {}
    )
    numbers = [
        Column(key="macs", title="MACs", show=count),
        Column(key="additions", title="additions", show=count),
        Column(key="shifts", title="shifts", show=count),
        Column(key="multiplications", title="products", show=count, leaves=8),
        Column(key="bits_moved", title="bits moved", show=count, leaves=7),
    ]
    for place, table in enumerate(TABLES):
        for form, leaves in (("stored", 5), ("int8", 3), ("float32", 1)):
            numbers.append(
                Column(
                    key=f"{form} pJ {table.name}",
                    title=f"{form} nJ, {table.name}",
                    show=_nanojoules,
                    leaves=leaves + (0 if place else 1),
                )
            )
    if not any(layer.multiplications for layer in found.layers):
        numbers = [column for column in numbers if column.key != "multiplications"]
    return View(
        title=str(path),
        columns=(LAYER, *numbers),
        rows=[*rows, {"layer": "all", **summed}],
        notes=(RULE, *(f"{table.name}: {table.source}." for table in TABLES)),
    )


def _cost_row(layer: Mapping[str, Any]) -> dict[str, Any]:
    names = ("layer", "macs", "additions", "shifts", "multiplications", "bits_moved")
    row = {name: layer[name] for name in names}
    forms = {"stored": "energy", "int8": "int8_energy", "float32": "float32_energy"}
    return row | {
        f"{form} pJ {table}": energy
        for form, key in forms.items()
        for table, energy in layer[key].items()
    }


def forms_view(found: Cost) -> View:
    """Return the whole network as stored, in int8 and in float32."""
    rows = []
    for form in found.forms:
        row: dict[str, Any] = {**dataclasses.asdict(form)}
        for table in form.energy:
            row |= {f"pJ {table}": form.energy[table], f"moving {table}": form.moving_energy[table]}
        rows.append(row)
    energies = [
        Column(key=f"{key} {table}", title=f"{title} nJ, {table}", show=_nanojoules, leaves=leaves)
        for table in found.forms[0].energy
        for key, title, leaves in (("pJ", "operations", 3), ("moving", "moving", 2))
    ]
    return View(
        columns=(
            Column(key="name", title="network", left=True),
            Column(key="bits_moved", title="bits moved", show=count),
            Column(key="peak_bytes", title="peak bytes", show=count),
            *energies,
        ),
        rows=rows,
        notes=(
            "Moving: all bits moved once, from or to a static memory of 1 MB, 64 at a time. Peak: "
            "activations, each kept while a node needs it.",
        ),
    )


# --- levels and weights ---------------------------------------------------------------------------


def levels_view(path: Path, found: Levels) -> View:
    """Return how every layer uses its levels."""
    rows: list[dict[str, Any]] = [
        {
            **vars(layer),
            "levels": len(layer.histogram) or None,
            "dead": len(layer.dead) if layer.histogram else None,
            "counts": [n for _, n in layer.histogram],
        }
        for layer in found.layers
    ]
    return View(
        title=str(path),
        columns=(
            LAYER,
            Column(key="kind", title="stored as", left=True, leaves=3),
            Column(key="weights", title="weights", show=count, leaves=4),
            Column(key="levels", title="levels"),
            Column(key="dead", title="dead"),
            Column(key="entropy", title="entropy", show="{:.2f}".format),
            Column(key="zeros", title="zeros", show=_percent),
            Column(key="terms", title="terms", show="{:.2f}".format),
            Column(key="outermost", title="outermost", show=_percent, leaves=5),
            Column(key="counts", title="use", draw="profile", leaves=2),
        ),
        rows=rows,
        notes=(
            "Entropy in bits a weight; terms: powers of two, or sign vectors, of a weight on "
            "average; outermost: weights at the lowest or highest level.",
        ),
        hints=("--layer NAME counts the levels of a layer, --csv those of all.",),
    )


def histogram_view(layers: Iterable[LayerLevels]) -> View:
    """Return the levels of layers one by one, and how many weights have each."""
    rows: list[dict[str, Any]] = []
    for layer in layers:
        total = sum(n for _, n in layer.histogram)
        most = max((n for _, n in layer.histogram), default=0) or 1
        for level, weights in layer.histogram:
            value = None if layer.step is None else level * layer.step
            rows.append(
                {"layer": layer.layer, "level": level, "value": value, "count": weights}
                | {"share": weights / total, "bar": weights / most}
            )
    return View(
        columns=(
            LAYER,
            Column(key="level", title="level"),
            Column(key="value", title="value", show=digits),
            Column(key="count", title="count", show=count),
            Column(key="share", title="share", show="{:.2%}".format),
            Column(key="bar", title="", draw="bar", leaves=1),
        ),
        rows=rows,
    )


def weights_view(path: Path, found: WeightErrors) -> View:
    """Return every layer's weights before and after quantization."""
    rows: list[dict[str, Any]] = []
    for layer in found.layers:
        row: dict[str, Any] = {name: getattr(layer, name) for name in ("layer", "weights")}
        for part in ("latent", "before", "after"):
            spread = dataclasses.asdict(getattr(layer, part))
            row |= {f"{part}_{name}": number for name, number in spread.items()}
        rows.append(row | {name: getattr(layer, name) for name in ("clipped", "error", "sqnr")})
    spreads = [
        Column(key=f"{part}_{name}", title=f"{part} {name}", show=digits, leaves=leaves)
        for part, first in (("latent", 1), ("before", 3), ("after", 3))
        for name, leaves in (
            *(("mean", first), ("deviation", first + 4)),
            *(("smallest", first + 1), ("largest", first + 1)),
        )
    ]
    return View(
        title=str(path),
        columns=(
            LAYER,
            Column(key="weights", title="weights", show=count, leaves=6),
            *spreads,
            Column(key="clipped", title="clipped", show=_percent),
            Column(key="error", title="error", show=digits),
            Column(key="sqnr", title="SQNR dB", show="{:.2f}".format),
        ),
        rows=rows,
        notes=(
            "Latent: in the checkpoint; before: as they are quantized, normalised where training "
            "did that; after: as stored. Error: root mean square of the differences between before "
            "and after; SQNR: mean square of before by that of the differences. Clipped: beyond "
            "the threshold.",
        ),
    )
