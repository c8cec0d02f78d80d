"""Exact integer Winograd convolution: 16 products where a 3 x 3 kernel takes 36.

F(2 x 2, 3 x 3) of Lavin and Gray, "Fast Algorithms for Convolutional Networks", CVPR 2016, on
integers: the transform of the weights is taken four times (its halves vanish), and the sums, which
are then four times the accumulators, are shifted back. Nothing is rounded. Transformed levels lie
within four times the largest level, transformed weights within nine times the largest weight: the
small level sets of powers of two fit the bytes that processors multiply, wider ones do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apot_export.network import CodedLayer, Convolution, Layer
from apot_export.network.bounds import INT32_LIMIT
from apot_export.runtimes.native._steps import LANES, WIDEST_BLOCK

_LARGEST_BYTE = 255
_LARGEST_INT8 = 127
_VECTOR_BYTES = 64
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


def is_eligible(operation: Convolution, layer: Layer) -> bool:
    """Whether a convolution has the form: a plain 3 x 3 kernel, whole blocks of channels."""
    return (
        isinstance(layer, CodedLayer)
        and layer.activation is not None
        and layer.shape[2:] == _KERNEL
        and (operation.stride, operation.padding, operation.dilation) == ((1, 1), (1, 1), (1, 1))
        and operation.groups == 1
        and layer.shape[0] % (LANES * WIDEST_BLOCK) == 0
        and layer.shape[1] % _VECTOR_BYTES == 0
        and POSITIONS * layer.shape[0] * layer.shape[1] <= _LARGEST_WEIGHTS
    )


def transformed(layer: Layer) -> Winograd | None:
    """Return an eligible layer's transformed weights; None where they or the levels leave bytes."""
    assert isinstance(layer, CodedLayer)
    assert layer.activation is not None
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
    width = LANES * WIDEST_BLOCK
    blocks = spread.reshape(outputs // width, width, inputs // 4, 4, POSITIONS)
    return Winograd(
        weights=np.ascontiguousarray(blocks.transpose(0, 4, 2, 1, 3), dtype=np.int8),
        offset=2 * largest_level,
        corrections=np.ascontiguousarray(-results.reshape(4, outputs), dtype=np.int32),
    )
