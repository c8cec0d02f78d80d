"""The integer network: every value an integer, every operation with exactly one result.

Roundings and ranges are those of docs/integer-semantics.md. Operations that compute the same on
integers as on floats (convolutions, sums, concatenations, ...) are those of `apot_export.network`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apot_export.network import Shape
from apot_export.network import operations as op

Integers = NDArray[np.int64]
LARGEST_PIXEL = 255


@dataclass(frozen=True, kw_only=True)
class ToFixed:
    """Float image to fixed point: clamp(floor(x * 2 ** fraction_bits + 1/2), low, high)."""

    fraction_bits: int
    low: int
    high: int


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
class Clamp:
    """min(max(x, low), high); None: no such limit."""

    low: int | None
    high: int | None


@dataclass(frozen=True, kw_only=True)
class WindowSum:
    """Sum of each window, without padding: an average whose division is left to later."""

    kernel: op.Pair
    stride: op.Pair


IntegerOperation = (
    ToFixed
    | op.Convolution
    | op.Linear
    | Requantize
    | Quantize
    | op.Add
    | Clamp
    | op.MaxPool
    | WindowSum
    | op.Flatten
    | op.Concat
    | op.Upsample
)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """The proven range of a value, both ends included."""

    low: int
    high: int

    @property
    def bits(self) -> int:
        """Width of the two's complement numbers that hold the range."""
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


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """Normalisation of uint8 pixels as in training: (pixel / 255 - mean) / std per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def scales(self, units: Fraction) -> tuple[list[Fraction], list[Fraction]]:
        """Return by channel the units per step of a pixel, and the units of pixel 0, exactly."""
        means, deviations = (
            [Fraction(str(number)) for number in numbers] for numbers in (self.mean, self.std)
        )
        ratios = [units / (LARGEST_PIXEL * deviation) for deviation in deviations]
        biases = [
            -mean / deviation * units for mean, deviation in zip(means, deviations, strict=True)
        ]
        return ratios, biases

    def of_images(self, images: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return the pixels of preprocessed images: float32 [N, C, H, W] to uint8."""
        axes = (1, -1, 1, 1)
        mean, std = (np.array(values).reshape(axes) for values in (self.mean, self.std))
        values = np.rint((images.astype(np.float64) * std + mean) * LARGEST_PIXEL)
        return np.clip(values, 0, LARGEST_PIXEL).astype(np.uint8)

    def to_json(self) -> dict[str, Any]:
        """Return the form that manifests store."""
        return {"mean": list(self.mean), "std": list(self.std)}


@dataclass(frozen=True, kw_only=True, eq=False)
class IntegerNetwork:
    """Nodes in an order in which every input exists before it is used."""

    nodes: tuple[IntegerNode, ...]
    layers: Mapping[str, IntegerLayer]
    input: str
    input_shape: Shape
    output: str
    logit_scale: Fraction
    """Real value of one unit of the logits."""
    fraction_bits: int
    """Fraction bits of the residual stream."""
    input_bits: int
    """Fraction bits of the input."""
    pixels: Pixels | None = None
    """Normalisation of the uint8 pixels that it reads; None where it reads float32."""
