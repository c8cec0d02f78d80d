"""Fixed-point arithmetic: requantizers, thresholds and inputs from real scales."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from apot_export.errors import IntegerError
from apot_export.integer.network import (
    LARGEST_PIXEL,
    Integers,
    Pixels,
    Quantize,
    Requantize,
    ToFixed,
)
from apot_export.integer.ranges import (
    DEFAULT_INPUT_BITS,
    INPUT_LIMIT,
    LARGEST_FRACTION_BITS,
    MULTIPLIER_BITS,
    PRODUCT_LIMIT,
    STREAM_LIMIT,
    Range,
    constant,
    per_channel,
    require_below,
)
from apot_export.network.layers import ActivationQuantizer

LARGEST_SHIFT = 61


def round_half_up(value: Fraction) -> int:
    """Return floor(value + 1/2)."""
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)


def ceiling(value: Fraction) -> int:
    """Return the smallest integer that is not below a value."""
    return -(-value.numerator // value.denominator)


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

    The shift is the largest for which multipliers have at most `MULTIPLIER_BITS` bits and no
    product leaves 62 bits.

    Args:
        name: The node, for messages.
        ratios: Units of the result per unit of x, by channel, or one for all.
        biases: In units of the result, likewise.
        values: Range of x by channel.
    """
    largest = max(abs(ratio) for ratio in ratios)
    shift = 0
    if largest:
        # 2 ** exponent is the largest power of two that is not above the ratio.
        exponent = largest.numerator.bit_length() - largest.denominator.bit_length()
        if Fraction(2) ** exponent > largest:
            exponent -= 1
        shift = min(max(0, MULTIPLIER_BITS - 1 - exponent), LARGEST_SHIFT)
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


def precise_requantizer(
    name: str,
    scales: list[Fraction],
    biases: list[Fraction],
    units: Fraction,
    values: Range,
) -> tuple[Requantize, Fraction]:
    """Return the requantizer of a value that only thresholds see, and its units.

    No such value is stored, so it has as many fraction bits as int32 can be proven to hold.

    Args:
        name: The node, for messages.
        scales: Real scales by channel, or one for all.
        biases: Real biases, likewise.
        units: Integers per real unit of x.
        values: Range of x by channel.
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

    Args:
        quantizer: Codebook and clipping threshold.
        units: Integers per unit of the real input.
    """
    table = quantizer.table
    changes = [i for i in range(1, len(table)) if table[i] != table[i - 1]]
    step = Fraction(float(quantizer.alpha)) / (2 * quantizer.input_steps)
    thresholds = [ceiling(i * step * units) for i in changes]
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
    multiplier = per_channel(operation.multiplier, channels)
    offset = per_channel(operation.offset, channels)
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

    Args:
        name: The value, for messages.
        channels: Of the image.
        bits: Fraction bits of the result.
        pixels: Normalisation of uint8 pixels; None for float32 images.

    Raises:
        BoundError: The result could overflow.
    """
    if pixels is None:
        limit = INPUT_LIMIT << bits
        fixed = ToFixed(fraction_bits=bits, low=-limit, high=limit)
        return fixed, constant(-limit, limit, channels)
    read = constant(0, LARGEST_PIXEL, channels)
    ratios, biases = pixels.scales(Fraction(1 << bits))
    lowered = requantizer(name, ratios, biases, read)
    found = range_of(lowered, read)
    require_below(STREAM_LIMIT, found.largest, name, "A fixed-point pixel")
    return lowered, found
