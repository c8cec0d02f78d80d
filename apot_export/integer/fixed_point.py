"""Fixed-point arithmetic with proven ranges: requantizers, thresholds and inputs of real scales."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from apot_export.errors import BoundError, IntegerError
from apot_export.integer.network import (
    LARGEST_PIXEL,
    Integers,
    Interval,
    Pixels,
    Quantize,
    Requantize,
    ToFixed,
)
from apot_export.network.bounds import IMAGE_LIMIT
from apot_export.network.layers import ActivationQuantizer

STREAM_LIMIT = 1 << 31
"""Fixed-point values are int32."""
SUM_LIMIT = 1 << 53
"""Sums of products are exact in int64 and in float64, in whatever order they are added."""
PRODUCT_LIMIT = 1 << 62
"""A product with a multiplier, its offset added, is exact in int64."""
MULTIPLIER_BITS = 30
"""Bits of the largest multiplier of a requantization."""
_LARGEST_SHIFT = 61
LARGEST_FRACTION_BITS = 24
DEFAULT_INPUT_BITS = 16
"""Of the input, where the residual stream has fewer: the first layer's sums are wide anyway."""


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

    The weights are [out, in / groups, ...]; the values' range holds 0 where there is padding.
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


def constant(low: int, high: int, channels: int) -> Range:
    """Return a range that all channels share."""
    return Range(
        low=np.full(channels, low, dtype=np.int64), high=np.full(channels, high, dtype=np.int64)
    )


# --- arithmetic of real scales -----------------------------------------------------------------


def round_half_up(value: Fraction) -> int:
    """Return floor(value + 1/2)."""
    return math.floor(value + Fraction(1, 2))


def signed_digits(value: int) -> list[tuple[int, int]]:
    """Return the canonical signed digits of an integer: (shift, 1 or -1), lowest first.

    No two neighbouring digits are nonzero, so that there are as few as can be.

    >>> signed_digits(7), signed_digits(-6)
    ([(0, -1), (3, 1)], [(1, 1), (3, -1)])
    """
    digits, rest, shift = [], value, 0
    while rest:
        if rest & 1:
            digit = 2 - (rest & 3)
            digits.append((shift, digit))
            rest -= digit
        rest >>= 1
        shift += 1
    return digits


def requantizer(
    name: str,
    ratios: list[Fraction],
    biases: list[Fraction],
    values: Range,
) -> Requantize:
    """Return the integers that stand for x * ratio + bias, rounded half up.

    Ratios (units of the result per unit of x) and biases (in units of the result) are by channel,
    or one for all. The shift is the largest for which multipliers have at most `MULTIPLIER_BITS`
    bits and no product leaves 62 bits.
    """
    largest = max(abs(ratio) for ratio in ratios)
    shift = 0
    if largest:
        # 2 ** exponent is the largest power of two that is not above the ratio.
        exponent = largest.numerator.bit_length() - largest.denominator.bit_length()
        if Fraction(2) ** exponent > largest:
            exponent -= 1
        shift = min(max(0, MULTIPLIER_BITS - 1 - exponent), _LARGEST_SHIFT)
    while True:
        multiplier = [round_half_up(ratio * 2**shift) for ratio in ratios]
        half = 1 << (shift - 1) if shift else 0
        offset = [round_half_up(bias * 2**shift) + half for bias in biases]
        reached = values.largest * max(map(abs, multiplier)) + max(map(abs, offset))
        if reached < PRODUCT_LIMIT or shift == 0:
            require_below(PRODUCT_LIMIT, reached, name, "A product with a multiplier")
            return Requantize(
                multiplier=np.array(multiplier, dtype=np.int64),
                offset=np.array(offset, dtype=np.int64),
                shift=shift,
            )
        shift -= min(shift, max(1, reached.bit_length() - PRODUCT_LIMIT.bit_length() + 1))


def shift_right(bits: int) -> Requantize:
    """Return the operation that divides by a power of two and rounds half up."""
    return Requantize(
        multiplier=np.ones(1, dtype=np.int64),
        offset=np.array([1 << (bits - 1)], dtype=np.int64),
        shift=bits,
    )


def precise_requantizer(
    name: str,
    scales: list[Fraction],
    biases: list[Fraction],
    units: Fraction,
    values: Range,
) -> tuple[Requantize, Fraction]:
    """Return the requantizer of a value that only thresholds see, and its units.

    No such value is stored, so it has as many fraction bits as int32 can be proven to hold. Scales
    and biases are real, by channel or one for all; `units` are integers per real unit of x.
    """
    largest = values.largest / units * max(map(abs, scales)) + max(map(abs, biases))
    spare = STREAM_LIMIT.bit_length() - 2 - (int(largest) + 1).bit_length()
    bits = max(0, min(LARGEST_FRACTION_BITS, spare))
    made = Fraction(1 << bits)
    ratios = [scale * made / units for scale in scales]
    found = requantizer(name, ratios, [bias * made for bias in biases], values)
    require_below(STREAM_LIMIT, range_of(found, values).largest, name, "A quantizer's input")
    return found, made


def requantized(values: Integers, operation: Requantize, axis: int = 0) -> Integers:
    """Apply a requantizer, the channels along an axis."""
    shape = [1] * values.ndim
    shape[axis] = -1
    product = values * operation.multiplier.reshape(shape) + operation.offset.reshape(shape)
    return np.asarray(product >> operation.shift)


def range_of(operation: Requantize, values: Range) -> Range:
    """Return the range of the results: the operation is monotone in x."""
    ends = [requantized(end, operation) for end in (values.low, values.high)]
    return Range(low=np.minimum(*ends), high=np.maximum(*ends))


def stream_thresholds(
    quantizer: ActivationQuantizer, units: Fraction
) -> tuple[list[int], Integers]:
    """Return the thresholds of fixed-point inputs, and the levels between them.

    A real input x has level number #{d <= x} over the quantizer's decision points d; an integer v
    stands for v / units, so that d <= v / units where ceil(d * units) <= v.
    """
    table = quantizer.table
    changes = [i for i in range(1, len(table)) if table[i] != table[i - 1]]
    step = Fraction(float(quantizer.alpha)) / (2 * quantizer.input_steps)
    thresholds = [math.ceil((i + quantizer.first_index) * step * units) for i in changes]
    levels = np.array([int(table[0]), *(int(table[i]) for i in changes)], dtype=np.int64)
    return thresholds, levels


def fused(
    thresholds: list[int], levels: Integers, operation: Requantize, values: Range
) -> Quantize:
    """Return thresholds on x that give exactly what those on its requantized value give.

    (x * m + b) >> s >= t holds where x * m >= t * 2 ** s - b: for m > 0 from a smallest x on, for
    m < 0 from a smallest -x on, for m = 0 always or never.
    """
    channels = values.low.size
    multiplier = np.broadcast_to(operation.multiplier, channels)
    offset = np.broadcast_to(operation.offset, channels)
    direction = np.where(multiplier < 0, -1, 1)
    found = np.empty((channels, len(thresholds)), dtype=np.int64)
    for channel in range(channels):
        m, b = int(multiplier[channel]), int(offset[channel])
        ends = (int(values.low[channel]), int(values.high[channel]))
        low, high = ends if m >= 0 else (-ends[1], -ends[0])
        for k, threshold in enumerate(thresholds):
            rest = (threshold << operation.shift) - b
            smallest = -(-rest // abs(m)) if m else (low if rest <= 0 else high + 1)
            # Beyond the proven range it is always or never reached: so it fits the same integers.
            found[channel, k] = min(max(smallest, low), high + 1)
    return Quantize(thresholds=found, direction=direction.astype(np.int64), levels=levels)


def chosen_input_bits(fraction_bits: int, input_bits: int | None) -> int:
    """Return the input's fraction bits: the given ones, or 16, or F if that is more.

    Raises:
        IntegerError: These or those of the residual stream are out of range.
    """
    bits = max(fraction_bits, DEFAULT_INPUT_BITS) if input_bits is None else input_bits
    for name, given in (("fraction bits", fraction_bits), ("input bits", bits)):
        if not 0 <= given <= LARGEST_FRACTION_BITS:
            raise IntegerError(
                f"The number of {name} is out of range.",
                expected=f"0 to {LARGEST_FRACTION_BITS}",
                got=str(given),
                fix="give another with --fraction-bits or --input-bits",
            )
    return bits


def fixed_input(
    name: str, channels: int, bits: int, pixels: Pixels | None
) -> tuple[ToFixed | Requantize, Range]:
    """Return the operation that makes a fixed-point image, and the range of its result.

    Images are uint8 pixels with a normalisation, or float32. Raises `BoundError` where the result
    could overflow.
    """
    if pixels is None:
        limit = IMAGE_LIMIT << bits
        fixed = ToFixed(fraction_bits=bits, low=-limit, high=limit)
        return fixed, constant(-limit, limit, channels)
    read = constant(0, LARGEST_PIXEL, channels)
    ratios, biases = pixels.scales(Fraction(1 << bits))
    lowered = requantizer(name, ratios, biases, read)
    found = range_of(lowered, read)
    require_below(STREAM_LIMIT, found.largest, name, "A fixed-point pixel")
    return lowered, found
