"""The integer network: every value an integer, every operation with exactly one result.

All names, roundings and ranges are those of docs/integer-semantics.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from apot_export.integer.pixels import Pixels
from apot_export.network import Pair, Shape

Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class ToFixed:
    """Float image to fixed point: clamp(floor(x * 2 ** fraction_bits + 1/2), low, high)."""

    fraction_bits: int
    low: int
    high: int


@dataclass(frozen=True, kw_only=True)
class Convolve:
    """Cross-correlation with a layer's integer weights; zeros outside the image."""

    layer: str
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int


@dataclass(frozen=True, kw_only=True)
class Multiply:
    """Matrix product with a layer's integer weights."""

    layer: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Requantize:
    """(x * multiplier + offset) >> shift per channel; the offset holds the half that rounds up."""

    multiplier: Integers
    """[channels] or [1]."""
    offset: Integers
    """[channels] or [1]."""
    shift: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantize:
    """levels[number of thresholds <= direction * x], the thresholds ascending per channel."""

    thresholds: Integers
    """[channels, K] or [1, K]."""
    direction: Integers
    """[channels] or [1], each 1 or -1: where larger inputs have larger levels, or smaller ones."""
    levels: Integers
    """[K + 1], ascending."""


@dataclass(frozen=True, kw_only=True)
class Sum:
    """a + b."""


@dataclass(frozen=True, kw_only=True)
class Clamp:
    """min(max(x, low), high); None: no such limit."""

    low: int | None
    high: int | None


@dataclass(frozen=True, kw_only=True)
class Maximum:
    """Largest value of each window; the padding never wins."""

    kernel: Pair
    stride: Pair
    padding: Pair


@dataclass(frozen=True, kw_only=True)
class Total:
    """Sum of each window, without padding: an average whose division is left to later."""

    kernel: Pair
    stride: Pair


@dataclass(frozen=True, kw_only=True)
class Flat:
    """[N, ...] to [N, product]."""


@dataclass(frozen=True, kw_only=True)
class Join:
    """Values one after the other along the channel axis."""


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """Every value repeated over a block of `scale` (height, width)."""

    scale: Pair


IntegerOperation = (
    ToFixed
    | Convolve
    | Multiply
    | Requantize
    | Quantize
    | Sum
    | Clamp
    | Maximum
    | Total
    | Flat
    | Join
    | Repeat
)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """What a value is proven to lie in, both ends included."""

    low: int
    high: int

    @property
    def bits(self) -> int:
        """Bits of two's complement that hold it."""
        return max(int(self.low) ^ -(self.low < 0), int(self.high)).bit_length() + 1


@dataclass(frozen=True, kw_only=True)
class IntegerNode:
    """One operation; its name is also that of the value that it produces."""

    name: str
    inputs: tuple[str, ...]
    operation: IntegerOperation
    shape: Shape
    """Of the value, without the batch axis."""
    interval: Interval


@dataclass(frozen=True, kw_only=True, eq=False)
class IntegerLayer:
    """Integer weights."""

    name: str
    weights: Integers
    """[out, in / groups, height, width] or [out, in]."""
    fraction_bits: int
    """The weights stand for these integers / 2 ** fraction_bits (times a scale, where coded)."""
    bound: int
    """Largest magnitude that any partial sum of the layer can have."""
    reads_levels: bool
    """Whether its input is levels of activations, not fixed-point numbers."""


@dataclass(frozen=True, kw_only=True, eq=False)
class IntegerNetwork:
    """Nodes in an order in which every input exists before it is used."""

    nodes: tuple[IntegerNode, ...]
    layers: Mapping[str, IntegerLayer]
    input: str
    input_shape: tuple[int, int, int]
    output: str
    logit_scale: Fraction
    """Real value of one unit of the logits."""
    fraction_bits: int
    """Fraction bits of the residual stream."""
    input_bits: int
    """Fraction bits of the input."""
    pixels: Pixels | None = None
    """Normalisation of the uint8 pixels that it reads; None where it reads float32."""
