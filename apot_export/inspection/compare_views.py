"""Two exports side by side, as tables and sentences."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

from apot_export.presentation.tables import Column, View, count

if TYPE_CHECKING:
    from apot_export.inspection.compare import ExportComparison, Results


def comparison_views(found: ExportComparison) -> Iterator[View]:
    """Return the differences of layers, then sizes and costs."""
    weights = sum(layer.weights for layer in found.layers)
    notes = [f"Of {weights:,} weights {found.codes:,} codes and {found.values:,} values differ."]
    if found.unmatched:
        notes.append(f"Not in both, or of another shape: {', '.join(found.unmatched)}.")
    yield View(
        facts=[("A", str(found.first)), ("B", str(found.second))],
        columns=(
            Column(key="layer", title="layer", left=True),
            Column(key="weights", title="weights", show=count, leaves=1),
            Column(key="codes", title="codes differ", show=count),
            Column(key="values", title="values differ", show=count),
            Column(key="distance", title="distance", show="{:.3%}".format),
        ),
        rows=[*map(dataclasses.asdict, found.layers)],
        notes=notes,
    )
    one, other = (cost.forms[0] for cost in found.costs)
    sizes = {f"bytes of {name}": pair for name, pair in found.files.items()}
    sizes["additions an image"] = one.additions, other.additions
    sizes["shifts an image"] = one.shifts, other.shifts
    sizes["multiplications an image"] = one.multiplications, other.multiplications
    sizes["bytes of activations, peak"] = one.peak_bytes, other.peak_bytes
    for process, energy in one.energy.items():
        sizes[f"pJ an image ({process})"] = round(energy), round(other.energy[process])
    yield View(
        columns=(
            Column(key="what", title="size", left=True),
            Column(key="A", title="A", show=count),
            Column(key="B", title="B", show=count),
        ),
        rows=[{"what": what, "A": a, "B": b} for what, (a, b) in sizes.items()],
    )


def sentences(found: Results) -> Iterator[str]:
    """Return what the images tell, in words."""
    if found.skipped:
        yield f"{found.skipped:,} images could not be read and were skipped."
    yield (
        f"Both name the same class for {found.second.agreement:.2%} of images; the largest "
        f"difference of a logit is {found.second.largest_logit_difference:.3g}."
    )
    flips = found.second.flips
    if flips is not None:
        yield (
            f"{flips.original_only} images are right by A alone, {flips.export_only} by B alone "
            f"(McNemar: p = {flips.probability:.2g})."
        )
