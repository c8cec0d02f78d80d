"""Proof that integer accumulators stay in the range in which their arithmetic is exact."""

from __future__ import annotations

import numpy as np

from apot_export.errors import BoundError
from apot_export.network import CodedLayer, CodedNetwork

FLOAT32_EXACT = 1 << 24
"""Integers of smaller magnitude are exact in float32."""


def accumulator_bound(layer: CodedLayer) -> int:
    """Return the largest magnitude that any partial sum of a quantized layer can reach.

    Levels lie in [0, largest activation level], so whatever the order of summation no partial sum
    exceeds that level times the sum of an output channel's weights of one sign.
    """
    if layer.activation is None:
        raise BoundError("Only a layer with a quantized input has accumulators.", where=layer.name)
    levels = layer.levels().reshape(layer.shape[0], -1).astype(np.int64)
    positive = np.maximum(levels, 0).sum(axis=1).max(initial=0)
    negative = np.maximum(-levels, 0).sum(axis=1).max(initial=0)
    largest_input = int(np.abs(layer.activation.codebook.levels).max())
    return int(max(positive, negative)) * largest_input


def require_exact_in_float32(network: CodedNetwork) -> dict[str, int]:
    """Prove every quantized layer's accumulator exact in float32; return the bounds by layer.

    Raises:
        BoundError: A layer's accumulator could reach 2^24.
    """
    bounds: dict[str, int] = {}
    for name, layer in network.layers.items():
        if isinstance(layer, CodedLayer) and layer.activation is not None:
            bounds[name] = accumulator_bound(layer)
            if bounds[name] >= FLOAT32_EXACT:
                raise BoundError(
                    "A layer's accumulator could leave the integers that float32 holds exactly.",
                    where=name,
                    expected=f"a proven bound below 2^24 = {FLOAT32_EXACT}",
                    got=str(bounds[name]),
                    fix="narrow the layer or use fewer bits: this layer cannot be exported exactly",
                )
    return bounds
