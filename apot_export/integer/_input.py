"""How images become fixed-point numbers."""

from __future__ import annotations

from fractions import Fraction

from apot_export.integer._network import Requantize, ToFixed
from apot_export.integer._pixels import LARGEST_PIXEL, Pixels
from apot_export.integer._ranges import STREAM_LIMIT, Range, constant, require_below
from apot_export.integer._scales import range_of, requantizer
from apot_export.integer.limits import INPUT_LIMIT, MULTIPLIER_BITS


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
