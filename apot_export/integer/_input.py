"""How images become fixed-point numbers."""

from __future__ import annotations

from fractions import Fraction

from apot_export.errors import IntegerError
from apot_export.integer._scales import range_of, requantizer
from apot_export.integer.network import Requantize, ToFixed
from apot_export.integer.pixels import LARGEST_PIXEL, Pixels
from apot_export.integer.ranges import (
    DEFAULT_INPUT_BITS,
    INPUT_LIMIT,
    LARGEST_FRACTION_BITS,
    MULTIPLIER_BITS,
    STREAM_LIMIT,
    Range,
    constant,
    require_below,
)


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
    lowered = requantizer(name, ratios, biases, read, MULTIPLIER_BITS)
    found = range_of(lowered, read)
    require_below(STREAM_LIMIT, found.largest, name, "A fixed-point pixel")
    return lowered, found
