"""The operations (3.5, 4.2 to 4.4): the shape of each result, and the result itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ._layers import Layer, Quantizer, float32
from ._members import require

Array = NDArray[Any]
Shape = tuple[int, ...]
"""Of one image: `(channels, height, width)`, or `(channels,)`."""
_COLUMN_BYTES = 2**21
"""Of the windows that one step of a convolution multiplies: what fits into a cache."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Node:
    """An operation on values; its name is that of its result (2.4)."""

    name: str
    operation: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    layer: Layer | None = None
    operand: Array | None = None
    """The weights to multiply with, or the quantizer's table."""

    @property
    def quantizer(self) -> Quantizer | None:
        """What makes levels of the layer's input; None where that stays float."""
        return None if self.layer is None else self.layer.quantizer


# --- Products (4.2, 4.3) --------------------------------------------------------------------------


def _convolve(node: Node, x: Array) -> Array:
    """Gather every window into a column, as many as fit into a cache, and multiply matrices."""
    assert node.operand is not None
    outputs, _, *kernel = node.operand.shape
    groups = node.attributes["groups"]
    weights = node.operand.reshape(groups, outputs // groups, -1)
    windows = _windows(
        _padded(x.astype(weights.dtype, copy=False), node.attributes["padding"], 0),
        kernel, node.attributes["stride"], node.attributes["dilation"],
    )  # fmt: skip
    images, channels, _, _, height, width = windows.shape
    sums = np.empty((images, groups, outputs // groups, height * width), weights.dtype)
    column_bytes = channels * math.prod(kernel) * height * width * weights.itemsize
    step = max(1, _COLUMN_BYTES // column_bytes)
    for first in range(0, images, step):
        some = windows[first : first + step]
        columns = some.reshape(len(some), groups, -1, height * width)
        np.matmul(weights, columns, out=sums[first : first + step])
    return _result(node, sums.reshape(images, outputs, height, width))


def _convolved_shape(node: Node, shape: Shape) -> Shape:
    assert node.operand is not None
    outputs, inputs, *kernel = node.operand.shape
    groups, gaps = node.attributes["groups"], node.attributes["dilation"]
    require(outputs % groups == 0, f"{groups} groups do not divide {outputs} outputs")
    require(shape[0] == groups * inputs, f"{groups} groups of {inputs} inputs are not {shape[0]}")
    reach = [(extent - 1) * gap + 1 for extent, gap in zip(kernel, gaps, strict=True)]
    return (outputs, *_extents(node, shape, reach))


def _multiply(node: Node, x: Array) -> Array:
    assert node.operand is not None
    return _result(node, x.astype(node.operand.dtype, copy=False) @ node.operand.T)


def _multiplied_shape(node: Node, shape: Shape) -> Shape:
    assert node.operand is not None
    outputs, inputs = node.operand.shape
    require(shape == (inputs,), f"a matrix product of {inputs} inputs")
    return (outputs,)


def _result(node: Node, sums: Array) -> Array:
    return sums if node.quantizer else sums.astype(np.float32, copy=False)


# --- Windows --------------------------------------------------------------------------------------


def _extents(node: Node, shape: Shape, reach: list[int]) -> Iterator[int]:
    """Return how many windows fit, along both axes of an image (4.2, 4.4)."""
    require(len(shape) == 3, "there is no height and width")  # noqa: PLR2004
    padding = node.attributes.get("padding", (0, 0))
    for size, extent, step, margin in zip(
        shape[1:], reach, node.attributes["stride"], padding, strict=True
    ):
        require(extent <= size + 2 * margin, f"a window of {extent} is larger than the image")
        yield (size + 2 * margin - extent) // step + 1


def _padded(x: Array, padding: list[int], value: float) -> Array:
    (height, width), (rows, columns) = x.shape[2:], padding
    if rows == columns == 0:
        return x
    padded = np.full((*x.shape[:2], height + 2 * rows, width + 2 * columns), value, x.dtype)
    padded[:, :, rows : rows + height, columns : columns + width] = x
    return padded


def _windows(
    x: Array, kernel: list[int], stride: list[int], dilation: tuple[int, int] | list[int] = (1, 1)
) -> Array:
    """View [N, C, H, W] as [N, C, kernel height, kernel width, H', W']."""
    reach = [(extent - 1) * gap + 1 for extent, gap in zip(kernel, dilation, strict=True)]
    views = sliding_window_view(x, reach, axis=(2, 3))
    (down, right), (gap_down, gap_right) = stride, dilation
    chosen = views[:, :, ::down, ::right, ::gap_down, ::gap_right]
    return np.asarray(chosen.transpose(0, 1, 4, 5, 2, 3))


def _places(windows: Array) -> Iterator[Array]:
    """Yield the number at every place of all windows, [N, C, H', W']."""
    for row, column in np.ndindex(windows.shape[2:4]):
        yield windows[:, :, row, column]


def _max_pool(node: Node, x: Array) -> Array:
    padded = _padded(x, node.attributes["padding"], -np.inf)
    windows = _windows(padded, node.attributes["kernel"], node.attributes["stride"])
    return reduce(np.maximum, _places(windows))


def _average_pool(node: Node, x: Array) -> Array:
    windows = _windows(x.astype(np.float64), node.attributes["kernel"], node.attributes["stride"])
    total = reduce(np.add, _places(windows))
    return np.asarray((total / math.prod(node.attributes["kernel"])).astype(np.float32))


def _pooled_shape(node: Node, shape: Shape) -> Shape:
    kernel, padding = node.attributes["kernel"], node.attributes.get("padding", (0, 0))
    fine = all(margin < extent for margin, extent in zip(padding, kernel, strict=True))
    require(fine, "the padding is as large as the window")
    return (shape[0], *_extents(node, shape, kernel))


def _averaged_shape(_: Node, shape: Shape) -> Shape:
    require(len(shape) == 3, "there is no height and width")  # noqa: PLR2004
    return (shape[0], 1, 1)


def _upsample(node: Node, x: Array) -> Array:
    height, width = node.attributes["scale"]
    return x.repeat(height, axis=2).repeat(width, axis=3)


def _upsampled_shape(node: Node, shape: Shape) -> Shape:
    require(len(shape) == 3, "there is no height and width")  # noqa: PLR2004
    return (shape[0], *np.multiply(shape[1:], node.attributes["scale"], dtype=object))


# --- Number by number -----------------------------------------------------------------------------


def _quantize(node: Node, x: Array) -> Array:
    quantizer = node.quantizer
    assert quantizer is not None
    assert node.operand is not None
    product = x * quantizer.scale
    require(not np.isnan(product.max(initial=0)), f"{node.name} reads a NaN")
    if quantizer.first:  # whole numbers first: beside 2L, F32 loses fractions
        product = np.floor(product) - np.float32(quantizer.first)
    np.clip(product, 0, np.float32(quantizer.last - quantizer.first), out=product)
    return node.operand.take(product.astype(np.intp), mode="clip")  # which cuts off fractions


def _scale_bias(node: Node, x: Array) -> Array:
    result = x.astype(np.float32)
    for part, combine in (("scale", np.multiply), ("bias", np.add)):  # two roundings
        numbers = node.attributes[part].reshape(-1, *[1] * (x.ndim - 2))
        combine(result, numbers, out=result)
    return result


def _scaled_shape(node: Node, shape: Shape) -> Shape:
    for part in ("scale", "bias"):
        numbers = node.attributes[part]
        fine = numbers.ndim == 0 or len(numbers) == shape[0]
        require(fine, f"{part} has {numbers.size} channels")
    return shape


def _clip(node: Node, x: Array) -> Array:
    low, high = float32(node.attributes["minimum"]), float32(node.attributes["maximum"])
    return np.clip(x, low, high)


def _clipped_shape(node: Node, shape: Shape) -> Shape:
    fine = node.attributes["minimum"] <= node.attributes["maximum"]
    require(fine, "the minimum is above the maximum")
    return shape


def _added_shape(_: Node, shape: Shape, other: Shape) -> Shape:
    require(shape == other, "the shapes differ")
    return shape


def _joined_shape(_: Node, *shapes: Shape) -> Shape:
    require(len({shape[1:] for shape in shapes}) == 1, "the heights or widths differ")
    return (sum(shape[0] for shape in shapes), *shapes[0][1:])


def _same_shape(_: Node, shape: Shape) -> Shape:
    return shape


class Execution(NamedTuple):
    """What an operation does to shapes, and to values of one more axis in front."""

    shape: Callable[..., Shape]
    """Raises ValueError where the inputs do not fit."""
    run: Callable[..., Array]


EXECUTION: Mapping[str, Execution] = {
    "Convolution": Execution(_convolved_shape, _convolve),
    "Linear": Execution(_multiplied_shape, _multiply),
    "QuantizeActivation": Execution(_same_shape, _quantize),
    "ScaleBias": Execution(_scaled_shape, _scale_bias),
    "Add": Execution(_added_shape, lambda _, a, b: a + b),
    "Relu": Execution(_same_shape, lambda _, x: np.maximum(x, 0)),
    "Clip": Execution(_clipped_shape, _clip),
    "Concat": Execution(_joined_shape, lambda _, *values: np.concatenate(values, axis=1)),
    "Upsample": Execution(_upsampled_shape, _upsample),
    "MaxPool": Execution(_pooled_shape, _max_pool),
    "AveragePool": Execution(_pooled_shape, _average_pool),
    "GlobalAveragePool": Execution(
        _averaged_shape,
        lambda _, x: x.mean((2, 3), np.float64, keepdims=True).astype(np.float32),
    ),
    "Flatten": Execution(lambda _, shape: (math.prod(shape),), lambda _, x: x.reshape(len(x), -1)),
}
