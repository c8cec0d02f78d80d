"""The integer weights of a layer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from apot_export.errors import IntegerError
from apot_export.integer.network import Integers
from apot_export.integer.ranges import STREAM_LIMIT
from apot_export.network.layers import CodedLayer, FloatLayer, Layer, PlaneLayer
from apot_export.network.planes import term_values


def integer_weights(layer: Layer) -> tuple[Integers, int]:
    """Return a layer's integer weights and their fraction bits.

    Raises:
        IntegerError: The weights are floats.
    """
    if isinstance(layer, CodedLayer):
        return layer.levels().astype(np.int64), 0
    if isinstance(layer, PlaneLayer) and layer.planes.terms is not None:
        coordinates, bits = dyadic_coordinates(layer)
        return layer.planes.scaled_by(coordinates).astype(np.int64), bits
    kind = "float32" if isinstance(layer, FloatLayer) else "sums of float32 coordinates"
    raise IntegerError(
        "A layer's weights are not integers.",
        where=layer.name,
        expected="codes, or coordinates as sums of powers of two (--alpha-terms K)",
        got=f"{kind} weights",
        fix="leave out --integer, or convert a quantized network",
    )


def dyadic_coordinates(layer: PlaneLayer) -> tuple[NDArray[np.float64], int]:
    """Return coordinates that are sums of powers of two as integers, and their fraction bits.

    Returns:
        float64 integers [bases], each below 2 ** 31 in magnitude, and the bits.

    Raises:
        IntegerError: The largest is too many times the smallest power.
    """
    planes = layer.planes
    if planes.terms is None:
        raise TypeError(f"{layer.name} has coordinates that are floats")
    addends = term_values(planes.terms)
    used = np.abs(addends[addends != 0])
    bits = max(0, -int(np.frexp(used.min())[1] - 1)) if used.size else 0
    integers = addends.sum(axis=1) * 2.0**bits
    if np.abs(integers).max(initial=0) >= STREAM_LIMIT:
        raise IntegerError(
            "The coordinates of a layer differ too much to be integers of one scale.",
            where=layer.name,
            expected="a largest one below 2^31 times the smallest power of two among their terms",
            got=f"{np.abs(integers).max():.3g}",
            fix="convert with fewer terms: --alpha-terms K",
        )
    return integers, bits
