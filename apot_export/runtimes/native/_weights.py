"""Weights in the order in which the kernels read them, plain or transformed by Winograd."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apot_export.errors import KernelError
from apot_export.network import ActivationQuantizer, CodedLayer, Convolution, Layer
from apot_export.network.bounds import INT32_LIMIT, accumulator_bound
from apot_export.runtimes.native._structs import LANES, WIDEST_BLOCK

Array = NDArray[Any]
_LARGEST_INT8 = 127
_LARGEST_INT16 = (1 << 15) - 1
_BYTE_LEVELS = 4
"""Levels that one instruction multiplies for each output channel."""


def padded(channels: int) -> int:
    """Return the channels that a value takes in memory."""
    return -(-channels // LANES) * LANES


@dataclass(frozen=True, kw_only=True, eq=False)
class Packed:
    """A layer's weights for the kernels."""

    weights: Array
    """int8 (the low bytes) where the layer reads levels, float32 where it reads floats."""
    group_inputs: int
    """Input channels that a sum reads."""
    groups: int
    high: Array | None = None
    """Multiples of 256 of weights that leave int8."""
    narrow_run: int = 0
    """Taps whose sums of two products fit int16."""


def _numbers(layer: Layer) -> Array:
    """Return the factors of the sums, [out, in / groups, height, width]: int32 or float32."""
    numbers = layer.levels() if isinstance(layer, CodedLayer) else layer.weights()
    if not isinstance(layer, CodedLayer) or layer.activation is None:
        numbers = numbers.astype(np.float32)
    elif accumulator_bound(layer) * (1 + (layer.activation.lowest_level < 0)) >= INT32_LIMIT:
        raise KernelError("A sum could leave int32.", where=layer.name)
    return numbers.reshape(*layer.shape, *[1] * (4 - len(layer.shape)))


def largest_byte(quantizer: ActivationQuantizer) -> int:
    """Return the largest level, counted from the lowest one."""
    return int(quantizer.table.max()) - quantizer.lowest_level


def corrections(layer: Layer) -> NDArray[np.int32] | None:
    """Return what counting levels from the lowest one adds to the sums, negated: [channels].

    None where that is 0, and where the input stays float.
    """
    if layer.activation is None or not layer.activation.lowest_level:
        return None
    numbers = _numbers(layer)
    found = np.zeros(padded(len(numbers)), dtype=np.int32)
    found[: len(numbers)] = layer.activation.lowest_level * numbers.sum(axis=(1, 2, 3))
    return found


def pack_depthwise(layer: Layer) -> Array:
    """Return weights [tap][padded channels], int32 or float32."""
    numbers = _numbers(layer)
    taps = numbers.reshape(len(numbers), -1).T
    result = np.zeros((len(taps), padded(len(numbers))), dtype=numbers.dtype)
    result[:, : len(numbers)] = taps
    return result


def pack(layer: Layer, groups: int) -> Packed:
    """Return weights [block][tap][channels of the block][levels of a tap].

    Raises:
        KernelError: A sum could leave int32, or a weight int16.
    """
    numbers, quantizer = _numbers(layer), layer.activation
    together = 1 if quantizer is None else _BYTE_LEVELS
    outputs, inputs = numbers.shape[:2]
    if groups > 1 and (inputs % together or outputs // groups % LANES):
        numbers, groups = _dense(numbers, groups), 1
    group_inputs = numbers.shape[1]
    if quantizer is None:
        weights = _in_blocks(numbers, groups, together)
        return Packed(weights=weights, group_inputs=group_inputs, groups=groups)
    low = (numbers + 128 & 255) - 128
    high = (numbers - low) >> 8
    if np.abs(high).max(initial=0) > _LARGEST_INT8:
        raise KernelError(
            "The kernels multiply weights of 16 bits at most.",
            where=layer.name,
            got=f"a weight of {int(np.abs(numbers).max())}",
            fix="run the ONNX model",
        )
    parts = [_in_blocks(part.astype(np.int8), groups, together) for part in (low, high)]
    largest_level = largest_byte(quantizer)
    return Packed(
        weights=parts[0],
        group_inputs=group_inputs,
        groups=groups,
        high=parts[1] if high.any() else None,
        narrow_run=min(_narrow_run(part, largest_level) for part in parts),
    )


def _narrow_run(weights: Array, largest_level: int) -> int:
    pairs = np.abs(weights.reshape(-1, 2).astype(np.int32)).sum(axis=1)
    return _LARGEST_INT16 // max(1, int(pairs.max(initial=0)) * largest_level)


def _dense(numbers: Array, groups: int) -> Array:
    """Return the weights of one group that has zeros where others have no weights."""
    outputs, inputs, *kernel = numbers.shape
    dense = np.zeros((groups, outputs // groups, groups, inputs, *kernel), dtype=numbers.dtype)
    each = np.arange(groups)
    dense[each, :, each] = numbers.reshape(groups, -1, inputs, *kernel)
    return dense.reshape(outputs, groups * inputs, *kernel)


def _in_blocks(numbers: Array, groups: int, together: int) -> Array:
    outputs, inputs, height, width = numbers.shape
    taps = -(-inputs // together)
    full = np.zeros((padded(outputs), taps * together, height, width), dtype=numbers.dtype)
    full[:outputs, :inputs] = numbers
    # [groups, lanes, tap, output of 16, level of 4]; a tap is row, column, channels.
    ordered = full.reshape(groups, -1, LANES, taps, together, height, width)
    ordered = ordered.transpose(0, 1, 5, 6, 3, 2, 4).reshape(
        groups, -1, height * width * taps, LANES, together
    )
    pairs = ordered.shape[1] // WIDEST_BLOCK * WIDEST_BLOCK
    blocks = []
    for group in ordered:
        paired = group[:pairs].reshape(-1, WIDEST_BLOCK, *group.shape[1:])
        blocks += [paired.swapaxes(1, 2).ravel(), group[pairs:].ravel()]
    return np.concatenate(blocks)


# --- Winograd -------------------------------------------------------------------------------------
#
# Exact integer Winograd convolution: 16 products where a 3 x 3 kernel takes 36.
#
# F(2 x 2, 3 x 3) of Lavin and Gray, "Fast Algorithms for Convolutional Networks", CVPR 2016, on
# integers: the transform of the weights is taken four times (its halves vanish), and the sums,
# which are then four times the accumulators, are shifted back. Nothing is rounded. Transformed
# levels lie within four times the largest level, transformed weights within nine times the largest
# weight: the small level sets of powers of two fit the bytes that processors multiply, wider ones
# do not.

_LARGEST_BYTE = 255
_LARGEST_WEIGHTS = 1 << 23
"""Bytes of transformed weights beyond which reading them takes longer than multiplying."""
_MOST_SUMMANDS = 9
POSITIONS = 16
_KERNEL = (3, 3)
_WEIGHTS = np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]])
_RESULTS = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])


@dataclass(frozen=True, kw_only=True, eq=False)
class Winograd:
    """A layer's transformed weights."""

    weights: NDArray[np.int8]
    """[block][position][tap][output of the block][4]."""
    offset: int
    """Added to transformed levels to make bytes of them, but at position (1, 1)."""
    corrections: NDArray[np.int32]
    """What the offsets add to the four results, negated: [4][outputs]."""
    narrow_run: int
    """As in `Packed`."""


def winograd_weights(operation: Convolution, layer: Layer, unit: int) -> Winograd | None:
    """Return the transformed weights of a plain 3 x 3 convolution of whole blocks of channels.

    Args:
        operation: The convolution.
        layer: Its weights, and its quantizer.
        unit: Of what its input channels must be a multiple, itself one of `LANES`.

    Returns:
        None where the convolution has another form, its levels are signed, or weights or levels
        leave bytes.
    """
    plain = ((1, 1), (1, 1), (1, 1), 1)
    if (
        not isinstance(layer, CodedLayer)
        or layer.activation is None
        or layer.activation.lowest_level < 0
        or layer.shape[2:] != _KERNEL
        or (operation.stride, operation.padding, operation.dilation, operation.groups) != plain
        or layer.shape[0] % min(layer.shape[0], LANES * WIDEST_BLOCK)
        or layer.shape[0] % LANES
        or layer.shape[1] % unit
        or POSITIONS * layer.shape[0] * layer.shape[1] > _LARGEST_WEIGHTS
    ):
        return None
    largest_level = int(layer.activation.table.max())
    if 4 * largest_level > _LARGEST_BYTE:
        return None
    spread = np.einsum("ia,ocab,jb->ocij", _WEIGHTS, layer.levels().astype(np.int64), _WEIGHTS)
    largest = int(np.abs(spread).max())
    bound = layer.shape[1] * 4 * largest_level * largest * _MOST_SUMMANDS
    if largest > _LARGEST_INT8 or bound >= INT32_LIMIT:
        return None
    offsets = 2 * largest_level * spread.sum(axis=1)
    offsets[:, 1, 1] = 0
    results: NDArray[Any] = np.einsum("yi,oij,xj->yxo", _RESULTS, offsets, _RESULTS)
    outputs, inputs = layer.shape[:2]
    width = min(outputs, LANES * WIDEST_BLOCK)
    blocks = spread.reshape(outputs // width, width, inputs // 4, 4, POSITIONS)
    weights = np.ascontiguousarray(blocks.transpose(0, 4, 2, 1, 3), dtype=np.int8)
    return Winograd(
        weights=weights,
        offset=2 * largest_level,
        corrections=np.ascontiguousarray(-results.reshape(4, outputs), dtype=np.int32),
        narrow_run=_narrow_run(weights, 4 * largest_level),
    )
