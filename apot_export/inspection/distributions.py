"""Where the weights of a layer lie, and the levels that they became: what pictures draw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apot_export.inspection.weights import as_quantized
from apot_export.network import CodedLayer, CodedNetwork, Layer, SourceNetwork
from apot_export.network.layers import by_output

BINS = 64
_BEYOND = 1.25
"""How far the axis reaches, in units of the outermost level."""


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """The weights of one layer on an axis from `-reach` to `reach`.

    Where output channels have scales of their own, weights are divided by them.
    """

    layer: str
    reach: float
    levels: tuple[tuple[float, int], ...]
    """(value, weights that have it) of every level, ascending; empty where there are no codes."""
    weights: tuple[int, ...] | None
    """How many weights lie in each of `BINS` bins of equal width, before quantization; those beyond
    the axis in its outermost bins. Of layers without codes, and where only what is stored is known,
    the stored ones; None for codes whose training is not known."""


def distributions(
    network: CodedNetwork, source: SourceNetwork | None = None
) -> tuple[Distribution, ...]:
    """Return the distribution of every layer's weights, in order of computation.

    Args:
        network: The network as stored.
        source: The same as training left it; None where that is not known.
    """
    return tuple(
        _of_layer(layer, None if source is None else as_quantized(source.layers[name]))
        for name, layer in network.layers.items()
    )


def _of_layer(layer: Layer, before: NDArray[np.float64] | None) -> Distribution:
    if not isinstance(layer, CodedLayer):
        numbers = layer.weights().astype(np.float64) if before is None else before
        reach = float(np.abs(numbers).max()) or 1.0
        return Distribution(
            layer=layer.name, reach=reach, levels=(), weights=_counted(numbers, reach)
        )
    codes = np.bincount(layer.codes.reshape(-1), minlength=1 << layer.codebook.bits)
    numbers, places = np.unique(layer.codebook.levels, return_inverse=True)
    counts = np.bincount(places, weights=codes).astype(np.int64)
    values = numbers * layer.step
    reach = _BEYOND * float(np.abs(values).max()) or 1.0
    if before is not None and layer.scales is not None:
        before = before / by_output(layer.scales, before.ndim)
    return Distribution(
        layer=layer.name,
        reach=reach,
        levels=tuple(sorted(zip(values.tolist(), counts.tolist(), strict=True))),
        weights=None if before is None else _counted(before, reach),
    )


def _counted(numbers: NDArray[np.float64], reach: float) -> tuple[int, ...]:
    places = np.floor((numbers.reshape(-1) / reach + 1) * (BINS / 2))
    return tuple(
        np.bincount(np.clip(places, 0, BINS - 1).astype(np.int64), minlength=BINS).tolist()
    )
