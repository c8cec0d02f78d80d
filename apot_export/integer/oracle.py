"""The oracle of integer networks: numpy, int64 throughout, every operation as written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from apot_export.errors import DatasetError
from apot_export.integer._scales import requantized
from apot_export.integer.network import (
    Clamp,
    Convolve,
    Flat,
    IntegerNetwork,
    IntegerNode,
    Integers,
    Join,
    Maximum,
    Multiply,
    Quantize,
    Repeat,
    Requantize,
    Sum,
    ToFixed,
    Total,
)
from apot_export.network import Pair
from apot_export.network.oracle import execute, require_images

_LOWEST = np.iinfo(np.int64).min


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
    if not isinstance(first, ToFixed):
        raise TypeError(f"{network.nodes[0].name} does not convert the images")
    return _fixed(first, images.astype(np.float32))


def compute_integer(
    network: IntegerNetwork, node: IntegerNode, inputs: list[NDArray[Any]]
) -> Integers:
    """Compute one node."""
    first = inputs[0]
    results: dict[type[Any], Callable[[Any], Any]] = {
        ToFixed: lambda o: _fixed(o, first),
        Convolve: lambda o: _convolved(o, network.layers[o.layer].weights, first),
        Multiply: lambda o: _product(first, network.layers[o.layer].weights),
        Requantize: lambda o: requantized(first, o, axis=1),
        Quantize: lambda o: _quantized(o, first),
        Sum: lambda _: first + inputs[1],
        Clamp: lambda o: np.clip(first, o.low, o.high),
        Maximum: lambda o: _windows(first, o.kernel, o.stride, o.padding).max(axis=(4, 5)),
        Total: lambda o: _windows(first, o.kernel, o.stride, (0, 0)).sum(axis=(4, 5)),
        Flat: lambda _: first.reshape(first.shape[0], -1),
        Join: lambda _: np.concatenate(inputs, axis=1),
        Repeat: lambda o: first.repeat(o.scale[0], axis=2).repeat(o.scale[1], axis=3),
    }
    return np.asarray(results[type(node.operation)](node.operation), dtype=np.int64)


def _fixed(operation: ToFixed, images: NDArray[np.float32]) -> Integers:
    # float64 holds the product and its half exactly.
    scaled = images.astype(np.float64) * 2.0**operation.fraction_bits
    clamped = np.clip(np.floor(scaled + 0.5), operation.low, operation.high)
    return clamped.astype(np.int64)


def _product(rows: Integers, weights: Integers) -> Integers:
    # Proven below 2 ** 53, so float64 adds exactly, in whatever order, and much faster.
    return (rows.astype(np.float64) @ weights.astype(np.float64).T).astype(np.int64)


def _convolved(operation: Convolve, weights: Integers, image: Integers) -> Integers:
    out, group_inputs, *kernel = weights.shape
    group_outputs = out // operation.groups
    (high, wide), (step_y, step_x) = operation.padding, operation.stride
    gap_y, gap_x = operation.dilation
    padded = np.pad(image, ((0, 0), (0, 0), (high, high), (wide, wide)))
    reach = ((kernel[0] - 1) * gap_y + 1, (kernel[1] - 1) * gap_x + 1)
    windows = sliding_window_view(padded, reach, axis=(2, 3))
    windows = windows[:, :, ::step_y, ::step_x, ::gap_y, ::gap_x]
    count, _, height, width = windows.shape[:4]
    results = []
    for group in range(operation.groups):
        taken = windows[:, group * group_inputs : (group + 1) * group_inputs]
        rows = taken.transpose(0, 2, 3, 1, 4, 5).reshape(
            count * height * width, group_inputs * kernel[0] * kernel[1]
        )
        chosen = weights[group * group_outputs : (group + 1) * group_outputs]
        sums = _product(rows, chosen.reshape(group_outputs, -1))
        results.append(sums.reshape(count, height, width, group_outputs).transpose(0, 3, 1, 2))
    return np.concatenate(results, axis=1)


def _quantized(operation: Quantize, values: Integers) -> Integers:
    axes = (1, -1, *[1] * (values.ndim - 2))
    directed = values * operation.direction.reshape(axes)
    number = np.zeros(values.shape, dtype=np.int64)
    for thresholds in operation.thresholds.T:
        number += directed >= thresholds.reshape(axes)
    return operation.levels[number]


def _windows(image: Integers, kernel: Pair, stride: Pair, padding: Pair) -> Integers:
    (high, wide), (step_y, step_x) = padding, stride
    border = ((0, 0), (0, 0), (high, high), (wide, wide))
    padded = np.pad(image, border, constant_values=_LOWEST)
    return sliding_window_view(padded, kernel, axis=(2, 3))[:, :, ::step_y, ::step_x]
