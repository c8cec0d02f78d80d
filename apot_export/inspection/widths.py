"""Bit-widths of every layer, and the integer network's numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apot_export.artifacts.directory import read_manifest
from apot_export.errors import ExportError
from apot_export.inspection.cost import stored_bits
from apot_export.network import CodedLayer, CodedNetwork, Layer, PlaneLayer
from apot_export.network.shown import Shown
from apot_export.original.quantization import FULL_PRECISION_BITS

OPERATIONS = ("additions", "shifts", "comparisons")
"""What is counted of the integer network."""


@dataclass(frozen=True, kw_only=True)
class LayerWidth:
    """How many bits the weights of one layer take."""

    layer: str
    kind: str
    """"codes", "powers of two" or "sums of powers of two" (codes of weights that were floats),
    "sign vectors" or "float"."""
    weights: int
    bits: float
    """Bits of a code, average number of sign vectors of a group, or 32."""
    filters: int | None
    """Sign vectors of all groups, "binary filters" to the code that trained them; else None."""
    stored_bits: int
    """Bits of codes, or of sign vectors and their coordinates, before filling to whole bytes."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Widths(Shown):
    """The bits of a network's weights, layer by layer in order of computation."""

    source: Path
    layers: tuple[LayerWidth, ...]

    @property
    def average(self) -> float:
        """Bits of a weight, averaged over all weights."""
        weights = sum(layer.weights for layer in self.layers)
        return sum(layer.bits * layer.weights for layer in self.layers) / weights

    def plain_lines(self) -> list[str]:
        """Return what the code that trains multi-bit weights prints, numbers alone."""
        filters = [str(layer.filters) for layer in self.layers if layer.filters is not None]
        return [
            *(["currrent binary filter number per layer: ", *filters] if filters else []),
            "currrent average bitwidth per layer: ",
            *(f"{layer.bits:.4f}" for layer in self.layers),
            f"currrent average bitwidth:  {self.average:.4f}",
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the stable JSON form."""
        return {"average": self.average, "layers": [*map(dataclasses.asdict, self.layers)]}

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield "source", self.source
        yield "layers", len(self.layers)
        yield "bits a weight", f"{self.average:.4g}"


def widths(source: Path, network: CodedNetwork) -> Widths:
    """Return the bits of every layer's weights."""
    layers = network.layers.values()
    return Widths(source=source, layers=tuple(_width(layer) for layer in layers))


def _width(layer: Layer) -> LayerWidth:
    weights = math.prod(layer.shape)
    bits, filters = float(FULL_PRECISION_BITS), None
    if isinstance(layer, CodedLayer):
        bits = float(layer.codebook.bits)
    elif isinstance(layer, PlaneLayer):
        bits, filters = layer.planes.average_bits(), layer.planes.filters
    return LayerWidth(
        layer=layer.name,
        kind=kind_of(layer),
        weights=weights,
        bits=bits,
        filters=filters,
        stored_bits=stored_bits(layer),
    )


def kind_of(layer: Layer) -> str:
    """Return what a layer's weights are stored as: see `LayerWidth`."""
    if not isinstance(layer, CodedLayer):
        return "sign vectors" if isinstance(layer, PlaneLayer) else "float"
    # Codes of training have a threshold, or 127 steps.
    has_threshold = layer.alpha is not None or layer.scales is not None
    if has_threshold or layer.codebook.denominator > 1:
        return "codes"
    return "powers of two" if len(layer.codebook.tables) == 1 else "sums of powers of two"


def integer_summary(directory: Path) -> Mapping[str, Any]:
    """Return what an export's manifest says of its integer network.

    Returns:
        Fraction bits and where they come from, input, scale of the logits; by node, `operations`
        (additions, shifts, comparisons of one image without a multiplier, bits of the widest
        intermediate value) and `ranges` (smallest and largest value).

    Raises:
        ExportError: The directory is not an export, or has no integer network.
    """
    found: Mapping[str, Any] | None = read_manifest(directory).get("integer")
    if found is None:
        raise ExportError(
            "The export has no integer network.",
            where=str(directory),
            fix="convert the checkpoint with --integer",
        )
    return found


def operation_totals(form: Mapping[str, Any]) -> dict[str, int]:
    """Return how many operations of each kind the integer network takes for one image."""
    counts = form["operations"].values()
    return {kind: sum(count[kind] for count in counts) for kind in OPERATIONS}
