"""Bit-widths of every layer, and the integer network's numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apot_export.artifacts.directory import read_manifest
from apot_export.artifacts.packed import load_packed
from apot_export.errors import ExportError
from apot_export.inspection.thresholds import packed_file
from apot_export.network import CodedLayer, Layer, PlaneLayer
from apot_export.network.layers import EncodedCodes
from apot_export.original.quantization import FULL_PRECISION_BITS


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


@dataclass(frozen=True, kw_only=True)
class Widths:
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


def layer_bits(path: Path) -> Widths:
    """Read the bits of every layer's weights of an export directory or a packed file.

    Raises:
        ApotExportError: The path holds neither.
    """
    packed = packed_file(path)
    if packed is None and not path.exists():
        raise ExportError("There is no such export.", where=str(path), fix="check the path")
    if packed is None:
        raise ExportError(
            "Bits are shown of exports.",
            where=str(path),
            expected="an export's directory or a packed file (*.safetensors)",
            fix="convert the checkpoint first",
        )
    layers = load_packed(packed).layers.values()
    return Widths(source=path, layers=tuple(_width(layer) for layer in layers))


def _width(layer: Layer) -> LayerWidth:
    weights = math.prod(layer.shape)
    kind, bits, filters = "float", float(FULL_PRECISION_BITS), None
    stored = weights * FULL_PRECISION_BITS
    if isinstance(layer, CodedLayer):
        kind, bits = _kind_of_codes(layer), float(layer.codebook.bits)
        stored = weights * layer.codebook.bits
        if isinstance(layer.stored, EncodedCodes):
            stored = 8 * layer.stored.stored_bytes
    elif isinstance(layer, PlaneLayer):
        kind, bits, filters = "sign vectors", layer.planes.average_bits(), layer.planes.filters
        stored = layer.planes.storage_bits()
    return LayerWidth(
        layer=layer.name, kind=kind, weights=weights, bits=bits, filters=filters, stored_bits=stored
    )


def _kind_of_codes(layer: CodedLayer) -> str:
    """Return what codes stand for; those of training have a threshold, or 127 steps."""
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
