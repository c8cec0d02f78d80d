"""The oracle of integer networks: numpy, int64 throughout, every operation as written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apot_export.errors import DatasetError
from apot_export.integer import network as integer_op
from apot_export.integer.fixed_point import requantized
from apot_export.integer.network import IntegerNetwork, IntegerNode, Integers
from apot_export.network import Convolution, Linear
from apot_export.network.oracle import convolve, execute, rearrange, require_images, windows


def run_integer(
    network: IntegerNetwork,
    images: NDArray[Any],
    observe: Callable[[str, Integers], None] | None = None,
) -> Integers:
    """Run an integer network.

    Args:
        network: The network.
        images: [N, channels, height, width]: float32, preprocessed, or uint8 pixels where the
            network reads those.
        observe: Called with the name and array of every value, in order of computation.

    Returns:
        Logits, int64 [N, classes]; times `network.logit_scale` they are real numbers.

    Raises:
        DatasetError: The images do not have the network's input shape.
    """
    require_images(images, network.input_shape)
    pixels = network.pixels is not None
    if (images.dtype == np.uint8) != pixels:
        raise DatasetError(
            "The images are not of the type that the integer network reads.",
            expected="uint8" if pixels else "float32",
            got=str(images.dtype),
        )
    read: NDArray[Any] = images.astype(np.int64 if pixels else np.float32)
    return execute(
        network.nodes,
        {network.input: read},
        network.output,
        lambda node, inputs: compute_integer(network, node, inputs),
        observe,
    )


def fixed_point(
    network: IntegerNetwork, images: NDArray[np.float32] | NDArray[np.uint8]
) -> Integers:
    """Return images as the integers that programs read: fixed-point numbers, or pixels."""
    if network.pixels is not None:
        return images.astype(np.int64)
    first = network.nodes[0].operation
    if not isinstance(first, integer_op.ToFixed):
        raise TypeError(f"{network.nodes[0].name} does not convert the images")
    return _fixed(first, images.astype(np.float32))


def compute_integer(
    network: IntegerNetwork, node: IntegerNode, inputs: list[NDArray[Any]]
) -> Integers:
    """Compute one node."""
    operation, first = node.operation, inputs[0]
    found: Integers
    match operation:
        case integer_op.ToFixed():
            found = _fixed(operation, first)
        case Convolution():
            found = convolve(operation, first, network.layers[operation.layer].weights, _product)
        case Linear():
            found = _product(first, network.layers[operation.layer].weights)
        case integer_op.Requantize():
            found = requantized(first, operation, axis=1)
        case integer_op.Quantize():
            found = _quantized(operation, first)
        case integer_op.Clamp():
            found = np.clip(first, operation.low, operation.high)
        case integer_op.WindowSum():
            found = windows(first, operation.kernel, operation.stride).sum(axis=(4, 5))
        case _:
            found = rearrange(operation, inputs)
    return np.asarray(found, dtype=np.int64)


def _fixed(operation: integer_op.ToFixed, images: NDArray[np.float32]) -> Integers:
    # float64 holds the product and its half exactly.
    scaled = images.astype(np.float64) * 2.0**operation.fraction_bits
    clamped = np.clip(np.floor(scaled + 0.5), operation.low, operation.high)
    return clamped.astype(np.int64)


def _product(rows: Integers, weights: Integers) -> Integers:
    # Proven below 2 ** 53, so float64 adds exactly, in whatever order, and much faster.
    return (rows.astype(np.float64) @ weights.astype(np.float64).T).astype(np.int64)


def _quantized(operation: integer_op.Quantize, values: Integers) -> Integers:
    axes = (1, -1, *[1] * (values.ndim - 2))
    directed = values * operation.direction.reshape(axes)
    number = np.zeros(values.shape, dtype=np.int64)
    for thresholds in operation.thresholds.T:
        number += directed >= thresholds.reshape(axes)
    return operation.levels[number]
