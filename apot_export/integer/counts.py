"""How many additions, shifts and comparisons one image takes without a multiplier."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from apot_export.integer._scales import signed_digits
from apot_export.integer.network import (
    Clamp,
    Convolve,
    IntegerNetwork,
    IntegerNode,
    Maximum,
    Multiply,
    Quantize,
    Requantize,
    Sum,
    Total,
)


def operation_counts(network: IntegerNetwork) -> dict[str, dict[str, int]]:
    """Return additions (subtractions among them), shifts, comparisons and width by node.

    Weights count by their signed digits: a weight of n nonzero digits takes n additions, and a
    shift for each digit that is not 1. A multiplier takes the same for every element. `bits` is the
    width of the widest intermediate value.
    """
    return {node.name: _count(network, node) for node in network.nodes}


def _count(network: IntegerNetwork, node: IntegerNode) -> dict[str, int]:
    operation, elements = node.operation, math.prod(node.shape)
    counts = {"additions": 0, "shifts": 0, "comparisons": 0, "bits": node.interval.bits}
    if isinstance(operation, (Convolve, Multiply)):
        layer = network.layers[operation.layer]
        positions = elements // layer.weights.shape[0]
        counts["additions"], counts["shifts"] = (
            positions * digits for digits in _digits(layer.weights)
        )
        counts["bits"] = max(counts["bits"], layer.bound.bit_length() + 1)
    elif isinstance(operation, Requantize):
        counts["additions"], counts["shifts"] = _of_channels(operation.multiplier, elements)
        counts["additions"] += elements
        counts["shifts"] += elements if operation.shift else 0
        counts["bits"] = max(counts["bits"], _product_bits(network, node, operation))
    elif isinstance(operation, Quantize):
        # A binary search.
        counts["comparisons"] = elements * operation.thresholds.shape[1].bit_length()
    elif isinstance(operation, Sum):
        counts["additions"] = elements
    elif isinstance(operation, Clamp):
        limits = sum(limit is not None for limit in (operation.low, operation.high))
        counts["comparisons"] = limits * elements
    elif isinstance(operation, Maximum):
        counts["comparisons"] = elements * (math.prod(operation.kernel) - 1)
    elif isinstance(operation, Total):
        counts["additions"] = elements * (math.prod(operation.kernel) - 1)
    return counts


def _digits(weights: np.ndarray[Any, np.dtype[np.int64]]) -> tuple[int, int]:
    values, numbers = np.unique(np.abs(weights), return_counts=True)
    additions = shifts = 0
    for value, number in zip(values.tolist(), numbers.tolist(), strict=True):
        digits = signed_digits(value)
        additions += number * len(digits)
        shifts += number * sum(shift > 0 for shift, _ in digits)
    return additions, shifts


def _of_channels(
    multipliers: np.ndarray[Any, np.dtype[np.int64]], elements: int
) -> tuple[int, int]:
    additions, shifts = _digits(multipliers)
    each = elements // multipliers.size
    return additions * each, shifts * each


def _product_bits(network: IntegerNetwork, node: IntegerNode, operation: Requantize) -> int:
    sources = [other.interval for other in network.nodes if other.name == node.inputs[0]]
    largest = max((max(abs(one.low), abs(one.high)) for one in sources), default=255)
    product = largest * int(np.abs(operation.multiplier).max())
    return (product + int(np.abs(operation.offset).max())).bit_length() + 1
