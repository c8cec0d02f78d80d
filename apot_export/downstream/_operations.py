"""The operations (3.5, 4.2 to 4.4) on values of the shape [N, C, H, W] or [N, C].

Each raises ValueError where its inputs do not fit, also where N is 0: so shapes are checked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from itertools import product as pairs
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ._layers import Layer, Quantizer, float32
from ._members import require

Array = NDArray[Any]
Pair = tuple[int, int] | list[int]
_COLUMN_BYTES = 2**21
"""Of the windows that one step of a convolution multiplies: what fits into a cache."""
_FEW = 64
"""Places of a window up to which it is faster to combine whole images than window by window."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Node:
    """An operation on values; its name is that of its result (2.4)."""

    name: str
    operation: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    layer: Layer | None
    operand: Array
    """The weights to multiply with, or the quantizer's table; empty where there is no layer."""

    @property
    def quantizer(self) -> Quantizer | None:
        """What makes levels of the layer's input; None where that stays float."""
        return None if self.layer is None else self.layer.quantizer


# --- Products (4.2, 4.3) --------------------------------------------------------------------------


def _convolve(node: Node, x: Array) -> Array:
    """Gather every window into a column, as many as fit into a cache, and multiply matrices."""
    outputs, inputs, *kernel = node.operand.shape
    groups, stride, dilation = (node.attributes[key] for key in ("groups", "stride", "dilation"))
    require(x.shape[1] == groups * inputs, f"{groups} groups of {inputs} inputs")
    require(outputs % groups == 0, f"{groups} groups do not divide {outputs} outputs")
    weights = node.operand.reshape(groups, outputs // groups, -1)
    padded = _padded(x.astype(weights.dtype, copy=False), node.attributes["padding"], 0)
    windows = _windows(padded, kernel, stride, dilation)
    height, width = windows.shape[4:]
    sums = np.empty((len(x), *weights.shape[:2], height, width), weights.dtype)
    row_bytes = math.prod(windows.shape[1:4]) * width * weights.itemsize
    rows = min(height, max(1, _COLUMN_BYTES // row_bytes))
    step = max(1, _COLUMN_BYTES // (rows * row_bytes))
    for first, top in pairs(range(0, len(x), step), range(0, height, rows)):
        some = windows[first : first + step, :, :, :, top : top + rows]
        columns = some.reshape(len(some), groups, weights.shape[2], -1)
        found = np.matmul(weights, columns)
        into = sums[first : first + step, :, :, top : top + rows]
        into[...] = found.reshape(into.shape)
    return _result(node, sums.reshape(len(x), outputs, height, width))


def numbers_between(node: Node, given: tuple[int, ...], made: tuple[int, ...]) -> int:
    """Return how many numbers an operation makes of an image on its way to a result (5.1)."""
    if node.operation == "Resample":
        return math.prod((*made[:-1], given[-1]))
    if not node.attributes.keys() & {"padding"}:
        return 0
    (channels, height, width), (rows, columns) = given, node.attributes["padding"]
    padded = channels * (height + 2 * rows) * (width + 2 * columns)
    row_of_windows = channels * math.prod(node.operand.shape[2:]) * made[-1]
    return padded + (row_of_windows if node.operation == "Convolution" else 0)


def _multiply(node: Node, x: Array) -> Array:
    require(x.ndim == 2, "a matrix product reads [N, C]")  # noqa: PLR2004
    return _result(node, x.astype(node.operand.dtype, copy=False) @ node.operand.T)


def _result(node: Node, sums: Array) -> Array:
    return sums if node.quantizer else sums.astype(np.float32, copy=False)


# --- Windows --------------------------------------------------------------------------------------


def _padded(x: Array, padding: Pair, value: float) -> Array:
    (height, width), (rows, columns) = x.shape[2:], padding
    if rows == columns == 0:
        return x
    padded = np.full((*x.shape[:2], height + 2 * rows, width + 2 * columns), value, x.dtype)
    padded[:, :, rows : rows + height, columns : columns + width] = x
    return padded


def _windows(x: Array, kernel: Pair, stride: Pair, dilation: Pair = (1, 1)) -> Array:
    """View [N, C, H, W] as [N, C, kernel height, kernel width, H', W']."""
    reach = [(extent - 1) * gap + 1 for extent, gap in zip(kernel, dilation, strict=True)]
    (down, right), (gap_down, gap_right) = stride, dilation
    windows = sliding_window_view(x, reach, axis=(2, 3))
    chosen = windows[:, :, ::down, ::right, ::gap_down, ::gap_right]
    return np.asarray(chosen.transpose(0, 1, 4, 5, 2, 3))


def _combined(combine: np.ufunc, windows: Array) -> Array:
    """Combine the numbers of every window."""
    kernel = windows.shape[2:4]
    if math.prod(kernel) > _FEW:
        return np.asarray(combine.reduce(windows, axis=(2, 3)))
    return reduce(combine, (windows[:, :, row, column] for row, column in np.ndindex(kernel)))


def _max_pool(node: Node, x: Array) -> Array:
    kernel, padding = node.attributes["kernel"], node.attributes["padding"]
    fine = padding[0] < kernel[0] and padding[1] < kernel[1]
    require(fine, "the padding is as large as the window")
    padded = _padded(x, padding, -np.inf)
    return _combined(np.maximum, _windows(padded, kernel, node.attributes["stride"]))


def _average_pool(node: Node, x: Array) -> Array:
    kernel = node.attributes["kernel"]
    total = _combined(np.add, _windows(x.astype(np.float64), kernel, node.attributes["stride"]))
    return np.asarray((total / math.prod(kernel)).astype(np.float32))


def _average(_: Node, x: Array) -> Array:
    return x.mean((2, 3), np.float64, keepdims=True).astype(np.float32)


def _upsample(node: Node, x: Array) -> Array:
    height, width = node.attributes["scale"]
    return x.repeat(height, axis=2).repeat(width, axis=3)


# --- Number by number -----------------------------------------------------------------------------


def _quantize(node: Node, x: Array) -> Array:
    quantizer = node.quantizer
    assert quantizer is not None
    product = x * quantizer.scale
    require(not np.isnan(product.max(initial=0)), f"{node.name} reads a NaN")
    if quantizer.first:  # whole numbers first: beside 2L, F32 loses fractions
        product = np.floor(product) - np.float32(quantizer.first)
    np.clip(product, 0, np.float32(quantizer.last - quantizer.first), out=product)
    return node.operand.take(product.astype(np.intp), mode="clip")  # which cuts off fractions


def _scale_bias(node: Node, x: Array) -> Array:
    result = x.astype(np.float32)
    for part, combine in (("scale", np.multiply), ("bias", np.add)):  # two roundings
        numbers = node.attributes[part]
        fine = numbers.ndim == 0 or len(numbers) == x.shape[1]
        require(fine, f"{part} has {numbers.size} channels")
        combine(result, numbers.reshape(-1, *[1] * (x.ndim - 2)), out=result)
    return result


def _clip(node: Node, x: Array) -> Array:
    low, high = node.attributes["minimum"], node.attributes["maximum"]
    require(low <= high, "the minimum is above the maximum")
    return np.clip(x, float32(low), float32(high))


def _spread(a: Array, b: Array) -> None:
    require(a.ndim == b.ndim, "the operands have different numbers of axes")
    fine = all(m == n or 1 in (m, n) for m, n in zip(a.shape, b.shape, strict=True))
    require(fine, "the shapes differ")


def _add(_: Node, a: Array, b: Array) -> Array:
    _spread(a, b)
    return a + b


def _multiply_numbers(_: Node, a: Array, b: Array) -> Array:
    _spread(a, b)
    return a * b


# --- Version 3: functions, rearrangements, linear maps --------------------------------------------


FUNCTIONS: Mapping[str, Callable[[Array], Array]] = {
    "sigmoid": lambda x: 0.5 * (1 + np.tanh(0.5 * x)),
    "tanh": np.tanh,
    "exp": np.exp,
    "log": np.log,
    "erf": np.vectorize(math.erf, otypes=[np.float64]),
    "sqrt": np.sqrt,
    "reciprocal": np.reciprocal,
    "abs": np.abs,
}


def _elementwise(node: Node, x: Array) -> Array:
    function = FUNCTIONS.get(node.attributes["function"])
    require(function is not None, f"no function {node.attributes['function']}")
    assert function is not None
    return np.asarray(function(x.astype(np.float64)).astype(np.float32))


def _reduce(node: Node, x: Array) -> Array:
    function, axes = node.attributes["function"], tuple(node.attributes["axes"])
    require(function in {"mean", "max"}, f"no reduction {function}")
    if function == "max":
        return np.asarray(x.max(axis=axes, keepdims=True, initial=-np.inf))
    return x.mean(axes, np.float64, keepdims=True).astype(np.float32)


def _slice(node: Node, x: Array) -> Array:
    start, stop, step = (node.attributes[key] for key in ("start", "stop", "step"))
    require(len(start) == len(stop) == len(step) == x.ndim - 1, "the slice has other axes")
    require(all(np.less_equal(stop, x.shape[1:])), "the slice ends behind its input")
    index = (slice(None), *map(slice, start, stop, step))
    return np.asarray(x[index])


def _pad(node: Node, x: Array) -> Array:
    widths = [(0, 0), *zip(node.attributes["before"], node.attributes["after"], strict=True)]
    value = node.attributes["value"]
    if value is None:
        return np.pad(x, widths, mode="edge") if x.size else np.pad(x, widths)
    return np.pad(x, widths, constant_values=float32(value))


def _reshape(node: Node, x: Array) -> Array:
    shape = node.attributes["shape"]
    require(math.prod(shape) == math.prod(x.shape[1:]), "the shapes hold different numbers")
    return x.reshape(len(x), *shape)


def _transpose(node: Node, x: Array) -> Array:
    return x.transpose(0, *node.attributes["order"])


def _resample(node: Node, x: Array) -> Array:
    height, width = x.shape[2:]
    rows = node.attributes["rows"].astype(np.float64).reshape(-1, height)
    columns = node.attributes["columns"].reshape(-1, width)
    return np.asarray((rows @ x @ columns.T).astype(np.float32))


RUN: Mapping[str, Callable[..., Array]] = {
    "Convolution": _convolve,
    "Linear": _multiply,
    "QuantizeActivation": _quantize,
    "ScaleBias": _scale_bias,
    "Add": _add,
    "Relu": lambda _, x: np.maximum(x, 0),
    "Clip": _clip,
    "Concat": lambda node, *values: np.concatenate(values, axis=node.attributes["axis"]),
    "Upsample": _upsample,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _average,
    "Flatten": lambda _, x: x.reshape(len(x), math.prod(x.shape[1:])),
    "Multiply": _multiply_numbers,
    "Elementwise": _elementwise,
    "Reduce": _reduce,
    "Slice": _slice,
    "Pad": _pad,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Resample": _resample,
}
