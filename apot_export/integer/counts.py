"""How many additions, shifts and comparisons one image takes without a multiplier."""

from __future__ import annotations

import math

import numpy as np

from apot_export.integer import network as integer_op
from apot_export.integer.fixed_point import signed_digits
from apot_export.integer.network import LARGEST_PIXEL, IntegerNetwork, IntegerNode, Integers
from apot_export.network import Add, Convolution, Linear, MaxPool


def operation_counts(network: IntegerNetwork) -> dict[str, dict[str, int]]:
    """Return additions (subtractions among them), shifts, comparisons and width by node.

    Weights count by their signed digits: a weight of n nonzero digits takes n additions, and a
    shift for each digit that is not 1. A multiplier takes the same for every element. `bits` is the
    width of the widest intermediate value.
    """
    return {node.name: _count(network, node) for node in network.nodes}


def _count(network: IntegerNetwork, node: IntegerNode) -> dict[str, int]:
    operation, elements = node.operation, math.prod(node.shape)
    additions = shifts = comparisons = 0
    bits = node.interval.bits
    match operation:
        case Convolution() | Linear():
            layer = network.layers[operation.layer]
            additions, shifts = _digits(layer.weights, elements // layer.weights.shape[0])
            bits = max(bits, layer.bound.bit_length() + 1)
        case integer_op.Requantize():
            each = elements // operation.multiplier.size
            additions, shifts = _digits(operation.multiplier, each)
            additions += elements
            shifts += elements if operation.shift else 0
            bits = max(bits, _product_bits(network, node, operation))
        case integer_op.Quantize():
            # A binary search.
            comparisons = elements * operation.thresholds.shape[1].bit_length()
        case Add():
            additions = elements
        case integer_op.Clamp():
            limits = sum(limit is not None for limit in (operation.low, operation.high))
            comparisons = limits * elements
        case MaxPool():
            comparisons = elements * (math.prod(operation.kernel) - 1)
        case integer_op.WindowSum():
            additions = elements * (math.prod(operation.kernel) - 1)
    return {"additions": additions, "shifts": shifts, "comparisons": comparisons, "bits": bits}


def _digits(numbers: Integers, times: int) -> tuple[int, int]:
    """Return additions and shifts of products with constants, each taken so many times."""
    additions = shifts = 0
    values, counts = np.unique(np.abs(numbers), return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        digits = signed_digits(value)
        additions += count * len(digits)
        shifts += count * sum(shift > 0 for shift, _ in digits)
    return additions * times, shifts * times


def _product_bits(
    network: IntegerNetwork, node: IntegerNode, operation: integer_op.Requantize
) -> int:
    sources = [other.interval for other in network.nodes if other.name == node.inputs[0]]
    largest = max((max(abs(one.low), abs(one.high)) for one in sources), default=LARGEST_PIXEL)
    product = largest * int(np.abs(operation.multiplier).max())
    return (product + int(np.abs(operation.offset).max())).bit_length() + 1
