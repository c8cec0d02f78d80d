"""How the levels of every layer are used."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apot_export.errors import ExportError
from apot_export.inspection.widths import kind_of
from apot_export.network import CodedLayer, CodedNetwork, Layer, PlaneLayer
from apot_export.network.shown import Shown


@dataclass(frozen=True, kw_only=True)
class LayerLevels:
    """How the weights of one layer use their levels."""

    layer: str
    kind: str
    """See `LayerWidth.kind`."""
    weights: int
    step: float | None
    """Value of one level; None where channels have their own, and for other layers than codes."""
    histogram: tuple[tuple[int, int], ...]
    """(level, weights that have it), ascending, with those that none has; of sign vectors (number
    of vectors, groups that have as many); empty for floats."""
    entropy: float | None
    """Of the histogram, in bits."""
    zeros: float
    """Share of weights that are 0, in [0, 1]."""
    terms: float | None
    """Powers of two, or sign vectors, that a weight is the sum of, on average."""
    outermost: float | None
    """Share of weights at the lowest or highest level: no fewer were clipped."""

    @property
    def dead(self) -> tuple[int, ...]:
        """Levels that no weight has."""
        return tuple(level for level, count in self.histogram if not count)

    def to_json(self) -> dict[str, Any]:
        """Return the stable JSON form."""
        return {**dataclasses.asdict(self), "dead": self.dead}


@dataclass(frozen=True, kw_only=True, repr=False)
class Levels(Shown):
    """How a network's weights use their levels, layer by layer in order of computation."""

    layers: tuple[LayerLevels, ...]

    def of_layer(self, name: str) -> Levels:
        """Return the levels of one layer alone.

        Raises:
            ExportError: There is no such layer.
        """
        found = tuple(layer for layer in self.layers if layer.layer == name)
        if not found:
            names = [layer.layer for layer in self.layers]
            near = get_close_matches(name, names, n=1)
            raise ExportError(
                "There is no such layer.",
                expected=", ".join(names),
                got=name,
                fix=f"did you mean {near[0]}?" if near else "name one of these",
            )
        return Levels(layers=found)

    def to_json(self) -> list[dict[str, Any]]:
        """Return the stable JSON form."""
        return [layer.to_json() for layer in self.layers]

    def _facts(self) -> Iterator[tuple[str, object]]:
        weights = sum(layer.weights for layer in self.layers)
        yield "layers", len(self.layers)
        yield "weights", f"{weights:,}"
        yield "zeros", f"{sum(one.zeros * one.weights for one in self.layers) / weights:.1%}"
        yield "levels that no weight has", f"{sum(len(layer.dead) for layer in self.layers):,}"


def levels(network: CodedNetwork) -> Levels:
    """Count the levels of every layer's weights."""
    return Levels(layers=tuple(_of_layer(layer) for layer in network.layers.values()))


def _of_layer(layer: Layer) -> LayerLevels:
    weights = math.prod(layer.shape)
    counts = np.zeros(0, np.int64)
    histogram: list[tuple[int, int]] = []
    step = terms = outermost = None
    if isinstance(layer, CodedLayer):
        step = layer.step if layer.scales is None else None
        used = np.bincount(layer.codes.reshape(-1), minlength=1 << layer.codebook.bits)
        numbers, places = np.unique(layer.codebook.levels, return_inverse=True)
        counts = np.bincount(places, weights=used).astype(np.int64)
        histogram = [*zip(numbers.tolist(), counts.tolist(), strict=True)]
        terms = float(used @ layer.codebook.terms()[1].sum(axis=1)) / weights
        outermost = float(counts[0] + counts[-1]) / weights
        zeros = float(counts[numbers == 0].sum()) / weights
    elif isinstance(layer, PlaneLayer):
        counts = np.bincount(layer.planes.counts)
        histogram = [*enumerate(counts.tolist())]
        terms, zeros = layer.planes.average_bits(), _zeros(layer)
    else:
        zeros = _zeros(layer)
    return LayerLevels(
        layer=layer.name,
        kind=kind_of(layer),
        weights=weights,
        step=step,
        histogram=tuple(histogram),
        entropy=_entropy(counts) if histogram else None,
        zeros=zeros,
        terms=terms,
        outermost=outermost,
    )


def _zeros(layer: Layer) -> float:
    return float(np.mean(layer.weights() == 0))


def _entropy(counts: NDArray[np.int64]) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(abs((shares * np.log2(shares)).sum()))
