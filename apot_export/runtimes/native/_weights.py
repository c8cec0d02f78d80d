"""Weights in the order in which the kernels read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apot_export.errors import KernelError
from apot_export.network import CodedLayer, Layer
from apot_export.network.bounds import INT32_LIMIT, accumulator_bound
from apot_export.runtimes.native._steps import LANES, WIDEST_BLOCK

Array = NDArray[Any]
_ALIGNMENT = 64
_PAGE = 1 << 21
_PIECE = 1 << 25
_LEAST = 1 << 22
"""Bytes from which numpy asks for large pages."""
_INT16_LIMIT = (1 << 15) - 1
_BYTE_LEVELS = 4
"""Levels that one instruction multiplies for each output channel."""


def large_memory(size: int) -> NDArray[np.uint8]:
    """Return memory that begins with a large page and, where the system has them, is made of such.

    A network's numbers take thousands of small pages, more than a processor keeps addresses of.
    What is never touched takes no memory.
    """
    memory = np.zeros(max(size, _LEAST) + _PAGE, dtype=np.uint8)
    return memory[-memory.ctypes.data % _PAGE :]


class Constants:
    """Arrays that live as long as a program, in few large pieces of memory."""

    def __init__(self) -> None:
        self._pieces: list[NDArray[np.uint8]] = []
        self._used = 0

    def address(self, array: Array) -> int:
        """Copy an array to a cache line of its own; return its address."""
        size = -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
        if not self._pieces or self._used + size > self._pieces[-1].size:
            self._pieces.append(large_memory(max(size, _PIECE)))
            self._used = 0
        place = self._pieces[-1][self._used : self._used + array.nbytes]
        place[...] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        self._used += size
        return place.ctypes.data


def padded(channels: int) -> int:
    """Return the channels that a value takes in memory."""
    return -(-channels // LANES) * LANES


@dataclass(frozen=True, kw_only=True, eq=False)
class Packed:
    """A layer's weights for the kernels."""

    integers: bool
    """Whether sums are of levels times levels, or of floats."""
    weights: Array
    high: Array | None
    """Multiples of 256 of weights that leave int8."""
    group_inputs: int
    """Input channels that a sum reads."""
    groups: int
    narrow_run: int
    """Taps whose sums of two products fit int16."""


def is_integer(layer: Layer) -> bool:
    """Whether a layer's input is levels."""
    return isinstance(layer, CodedLayer) and layer.activation is not None


def _numbers(layer: Layer) -> Array:
    """Return what the sums are made of, [out, in / groups, height, width]."""
    if is_integer(layer):
        assert isinstance(layer, CodedLayer)
        if accumulator_bound(layer) >= INT32_LIMIT:
            raise KernelError("A sum could leave int32.", where=layer.name)
        numbers: Array = layer.levels()
    else:
        numbers = layer.levels() if isinstance(layer, CodedLayer) else layer.weights()
        numbers = numbers.astype(np.float32)
    return numbers.reshape(*layer.shape, *[1] * (4 - len(layer.shape)))


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
    numbers, integers = _numbers(layer), is_integer(layer)
    together = _BYTE_LEVELS if integers else 1
    outputs, inputs = numbers.shape[:2]
    if groups > 1 and (inputs % together or outputs // groups % LANES):
        numbers, groups = _dense(numbers, groups), 1
    if not integers:
        weights = _in_blocks(numbers, groups, together)
        return Packed(
            integers=False,
            weights=weights,
            high=None,
            group_inputs=numbers.shape[1],
            groups=groups,
            narrow_run=0,
        )
    low = (numbers + 128 & 255) - 128
    high = (numbers - low) >> 8
    if np.abs(high).max(initial=0) > 127:  # noqa: PLR2004 - the largest int8
        raise KernelError(
            "The kernels multiply weights of 16 bits at most.",
            where=layer.name,
            got=f"a weight of {int(np.abs(numbers).max())}",
            fix="run the ONNX model",
        )
    parts = [_in_blocks(part.astype(np.int8), groups, together) for part in (low, high)]
    assert isinstance(layer, CodedLayer)
    assert layer.activation is not None
    return Packed(
        integers=True,
        weights=parts[0],
        high=parts[1] if high.any() else None,
        group_inputs=numbers.shape[1],
        groups=groups,
        narrow_run=min(_narrow_run(part, int(layer.activation.table.max())) for part in parts),
    )


def _narrow_run(weights: Array, largest_level: int) -> int:
    pairs = np.abs(weights.reshape(-1, 2).astype(np.int32)).sum(axis=1)
    return _INT16_LIMIT // max(1, int(pairs.max(initial=0)) * largest_level)


def _dense(numbers: Array, groups: int) -> Array:
    """Return the weights of one group that has zeros where others have no weights."""
    outputs, inputs = numbers.shape[:2]
    dense = np.zeros((outputs, inputs * groups, *numbers.shape[2:]), dtype=numbers.dtype)
    of_group = outputs // groups
    for group in range(groups):
        rows = slice(group * of_group, (group + 1) * of_group)
        dense[rows, group * inputs : (group + 1) * inputs] = numbers[rows]
    return dense


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
