"""Where a layer is summed: lanes of a word, and bands of rows."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from apot_export.devices.c._weights import SignVectors, Weights
from apot_export.integer.network import IntegerLayer, IntegerNode, Interval
from apot_export.network import operations as op
from apot_export.network.planes import Shape

_LANES = ((4, 8), (2, 16), (1, 32))
"""How many lanes a word of 32 bits has, and their bits."""
_PACKED_BYTES = 16 << 10
"""Bytes that the copied inputs of a band may take, if one row of a lane takes no more."""
_WORD_COST, _LANE_COST = 3, 5
"""Instructions of RV32I for a word, and for a lane that is taken from it."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Sizes of the copied inputs and of the sums: see apot_convolution in apot_kernels.h."""

    lanes: int
    lane_bits: int
    chunk: int
    groups: int
    inputs: int
    outputs: int
    source: Shape
    result: Shape
    kernel: op.Pair
    stride: op.Pair
    padding: op.Pair
    dilation: op.Pair
    lane_rows: int
    word: int
    """Bytes of a word."""

    @property
    def band(self) -> int:
        """Return the output rows of a band."""
        return self.lanes * self.lane_rows

    @property
    def rows(self) -> int:
        """Return the input rows of a lane."""
        return (self.lane_rows - 1) * self.stride[0] + (self.kernel[0] - 1) * self.dilation[0] + 1

    @property
    def columns(self) -> int:
        """Return the words of a phase."""
        return self.result[2] + (self.kernel[1] - 1) * self.dilation[1] // self.stride[1]

    @property
    def phases(self) -> int:
        """Return how many phases of columns are read."""
        return min(self.stride[1], (self.kernel[1] - 1) * self.dilation[1] + 1)

    @property
    def row_bytes(self) -> int:
        """Return the bytes of a copied row."""
        return self.phases * self.columns * self.word

    @property
    def channel_bytes(self) -> int:
        """Return the bytes of a copied channel."""
        return self.rows * self.row_bytes

    @property
    def packed_bytes(self) -> int:
        """Return the bytes of all copied channels."""
        return self.inputs * self.channel_bytes

    @property
    def sums_bytes(self) -> int:
        """Return the bytes of a channel's sums in a band."""
        return self.band * self.result[2] * self.word

    @property
    def bands(self) -> int:
        """Return the number of bands."""
        return -(-self.result[1] // self.band)

    def offsets(self) -> list[int]:
        """Return where the places of the kernel are in a copied channel, in bytes."""
        found = []
        for row in range(self.kernel[0]):
            for column in range(self.kernel[1]):
                step, phase = divmod(column * self.dilation[1], self.stride[1])
                words = phase * self.columns + step
                found.append(row * self.dilation[0] * self.row_bytes + words * self.word)
        return found


def geometry_of(
    layer: IntegerLayer,
    weights: Weights,
    operation: op.Convolution | op.Linear,
    source: IntegerNode,
    node: IntegerNode,
    *,
    wide: bool,
) -> Geometry:
    """Choose lanes and bands: the fewest instructions, then as many rows as the memory may hold."""
    shape = layer.weights.shape
    lanes, bits, chunk = (1, 64, shape[1]) if wide else _lanes(layer, weights, operation, source)
    read, result, kernel = source.shape, node.shape, tuple(shape[2:])
    if isinstance(operation, op.Linear):  # a convolution of one pixel
        operation = op.Convolution(layer=operation.layer)
        read, result, kernel = (shape[1], 1, 1), (shape[0], 1, 1), (1, 1)
    whole = Geometry(
        lanes=lanes,
        lane_bits=bits,
        chunk=chunk,
        groups=operation.groups,
        inputs=shape[1],
        outputs=shape[0] // operation.groups,
        source=read,
        result=result,
        kernel=(kernel[0], kernel[1]),
        stride=operation.stride,
        padding=operation.padding,
        dilation=operation.dilation,
        lane_rows=-(-result[1] // lanes),
        word=8 if wide else 4,
    )
    return _banded(whole)


def _banded(whole: Geometry) -> Geometry:
    """Take rows from a band until its copied inputs fit the memory that they may take."""
    found, height = whole, whole.result[1]
    while found.lane_rows > 1 and found.packed_bytes > _PACKED_BYTES:
        # One band more, all of about equal height.
        rows = min(found.lane_rows - 1, -(-height // (found.lanes * (found.bands + 1))))
        found = dataclasses.replace(found, lane_rows=rows)
    return found


def _lanes(
    layer: IntegerLayer,
    weights: Weights,
    operation: op.Convolution | op.Linear,
    source: IntegerNode,
) -> tuple[int, int, int]:
    """Return lanes, their bits, and input channels whose sums fit, for the fewest instructions."""
    inputs = layer.weights.shape[1]
    whole = (1, 32, inputs)
    if isinstance(operation, op.Linear) or isinstance(weights, SignVectors):
        return whole  # there is one row, or parts of a sum that no lane may hold
    best, least = whole, math.inf
    for lanes, bits in _LANES:
        chunk = inputs if lanes == 1 else _chunk(layer, source.interval, bits)
        if not chunk:
            continue
        parts = -(-inputs // chunk)
        spread = parts * (_WORD_COST + _LANE_COST * lanes)
        cost = (weights.cost * (1 + 0.1 * (parts - 1)) + spread) / lanes
        if cost < least:
            best, least = (lanes, bits, chunk), cost
    return best


def _chunk(layer: IntegerLayer, values: Interval, bits: int) -> int:
    """Return most input channels whose sums have so many bits, whatever they read; 0: not one."""
    shape = layer.weights.shape
    rows = layer.weights.reshape(shape[0], shape[1], -1)
    low, high = min(values.low, 0), max(values.high, 0)
    positive = np.maximum(rows, 0).sum(axis=2)
    negative = np.minimum(rows, 0).sum(axis=2)
    lows, highs = positive * low + negative * high, positive * high + negative * low
    limit = 1 << (bits - 1)
    for parts in range(1, shape[1] + 1):
        chunk = -(-shape[1] // parts)
        starts = np.arange(0, shape[1], chunk)
        least = np.add.reduceat(lows, starts, axis=1).min()
        most = np.add.reduceat(highs, starts, axis=1).max()
        if least >= -limit and most < limit:
            return chunk
    return 0
