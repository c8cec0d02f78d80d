"""The operations of a network's graph. They know numpy and no framework."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pair = tuple[int, int]
"""(height, width)"""


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """Two-dimensional cross-correlation, N C H W, with the weights of a layer."""

    layer: str
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    """Zeros added on both sides of the height and of the width."""
    dilation: Pair = (1, 1)
    groups: int = 1


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Matrix product of [N, in] with a layer's weights [out, in]."""

    layer: str


@dataclass(frozen=True, kw_only=True)
class QuantizeActivation:
    """Projection of a float tensor onto the integer levels of a layer's input quantizer."""

    layer: str


@dataclass(frozen=True, kw_only=True, eq=False)
class ScaleBias:
    """x * scale + bias per channel (axis 1): batch-norm, requantization and bias."""

    scale: NDArray[np.floating]
    """[channels], or [1] for all; float64 in a source network, float32 in a coded one."""
    bias: NDArray[np.floating]
    """[channels], or [1] for all, the same type."""


@dataclass(frozen=True, kw_only=True)
class Add:
    """Elementwise sum of two tensors of one shape."""


@dataclass(frozen=True, kw_only=True)
class Relu:
    """max(x, 0)."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """min(max(x, minimum), maximum)."""

    minimum: float
    maximum: float


@dataclass(frozen=True, kw_only=True)
class Concat:
    """Tensors one after the other along the channel axis."""


@dataclass(frozen=True, kw_only=True)
class Upsample:
    """Every value repeated over a block of `scale` (height, width): nearest neighbour."""

    scale: Pair


@dataclass(frozen=True, kw_only=True)
class MaxPool:
    """Maximum over windows; the padding never wins."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)


@dataclass(frozen=True, kw_only=True)
class AveragePool:
    """Mean over windows without padding."""

    kernel: Pair
    stride: Pair


@dataclass(frozen=True, kw_only=True)
class GlobalAveragePool:
    """Mean over height and width, both kept as 1."""


@dataclass(frozen=True, kw_only=True)
class Flatten:
    """[N, ...] to [N, product]."""


Operation = (
    Convolution
    | Linear
    | QuantizeActivation
    | ScaleBias
    | Add
    | Relu
    | Clip
    | Concat
    | Upsample
    | MaxPool
    | AveragePool
    | GlobalAveragePool
    | Flatten
)
