"""Interval analysis: the proven range of every channel, and the limits of integer arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from apot_export.errors import BoundError
from apot_export.integer.network import Integers, Interval

STREAM_LIMIT = 1 << 31
"""Fixed-point values are int32."""
SUM_LIMIT = 1 << 53
"""Sums of products are exact in int64 and in float64, in whatever order they are added."""
PRODUCT_LIMIT = 1 << 62
"""A product with a multiplier, its offset added, is exact in int64."""
MULTIPLIER_BITS = 30
"""Bits of the largest multiplier of a requantization."""
LARGEST_FRACTION_BITS = 24
DEFAULT_INPUT_BITS = 16
"""Of the input, where the residual stream has fewer: the first layer's sums are wide anyway."""
INPUT_LIMIT = 8
"""Images are clamped to [-8, 8]: normalised pixels stay far inside."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """Smallest and largest value of every channel."""

    low: Integers
    high: Integers

    @property
    def interval(self) -> Interval:
        """The range of all channels together."""
        return Interval(low=int(self.low.min()), high=int(self.high.max()))

    @property
    def largest(self) -> int:
        """Largest magnitude."""
        return max(abs(int(self.low.min())), abs(int(self.high.max())))

    def repeated(self, count: int) -> Range:
        """Return the range of channels that each stand so many times in a row."""
        return Range(low=np.repeat(self.low, count), high=np.repeat(self.high, count))

    def with_zero(self) -> Range:
        """Return the range with 0, which padding adds, included."""
        return Range(low=np.minimum(self.low, 0), high=np.maximum(self.high, 0))


def require_below(limit: int, reached: int, name: str, what: str) -> None:
    """Raise `BoundError` unless a magnitude is proven to stay below a power of two."""
    if reached >= limit:
        raise BoundError(
            f"{what} could overflow.",
            where=name,
            expected=f"a proven magnitude below 2^{limit.bit_length() - 1}",
            got=f"{reached}, which needs {reached.bit_length() - limit.bit_length() + 1} more bits",
            fix="give fewer fraction bits: --fraction-bits N",
        )


def of_sums(name: str, weights: Integers, groups: int, values: Range) -> tuple[Range, int]:
    """Return the range of sums of products by output, and the bound of all partial sums.

    Args:
        name: The layer, for messages.
        weights: [out, in / groups, ...].
        groups: Groups of the convolution.
        values: Range of the input's channels; 0 among them where there is padding.
    """
    out = weights.shape[0]
    rows = weights.reshape(out, weights.shape[1], -1)
    positive = np.maximum(rows, 0).sum(axis=2)
    negative = np.minimum(rows, 0).sum(axis=2)
    low, high = values.low.reshape(groups, -1), values.high.reshape(groups, -1)
    group = np.arange(out) // (out // groups)
    magnitudes = np.maximum(np.abs(low), np.abs(high))[group].astype(np.float64)
    absolute = ((positive - negative).astype(np.float64) * magnitudes).sum(axis=1)
    require_below(SUM_LIMIT, int(absolute.max()), name, "A sum of products")
    lows = (positive * low[group] + negative * high[group]).sum(axis=1)
    highs = (positive * high[group] + negative * low[group]).sum(axis=1)
    return Range(low=lows, high=highs), int(absolute.max())


def per_channel(values: Integers, channels: int) -> Integers:
    """Return one number a channel where there is one for all."""
    return np.broadcast_to(values, (channels,)) if values.shape[0] == 1 else values


def constant(low: int, high: int, channels: int) -> Range:
    """Return a range that all channels share."""
    low_high = np.repeat(np.array([[low], [high]], dtype=np.int64), channels, axis=1)
    return Range(low=low_high[0], high=low_high[1])
