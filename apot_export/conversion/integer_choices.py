"""What a user says of the integer form of a network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from apot_export.errors import IntegerError

_AUTO, _FLOAT, _PIXELS = "auto", "float", "uint8"


@dataclass(frozen=True, kw_only=True)
class IntegerChoices:
    """What a user says of the integer form."""

    fraction_bits: int | None = None
    """Of the residual stream; None for the smallest that images show to suffice."""
    input_bits: int | None = None
    """Of the input; None for 16, or for as many as the residual stream has."""
    pixels: bool = False
    """Whether the network reads uint8 pixels, their normalisation folded in."""
    data: str | None = None
    """Folder of calibration images; None for $APOT_EXPORT_DATA or ./data."""


def integer_choices(
    fraction_bits: str,
    input_bits: int | None,
    input_type: str,
    data: Path | None,
    *,
    wanted: bool,
) -> IntegerChoices | None:
    """Read what a command line says of the integer form; None where it wants none.

    Raises:
        IntegerError: It is no number, no type of input, or said without the form.
    """
    if not wanted:
        if (fraction_bits, input_bits, input_type, data) != (_AUTO, None, _FLOAT, None):
            raise IntegerError(
                "Fraction bits, input and calibration images are those of the integer network.",
                expected="--integer beside them",
                fix="add --integer, or leave them out",
            )
        return None
    if input_type not in (_FLOAT, _PIXELS):
        raise IntegerError(
            "There is no such input.", expected=f"{_FLOAT} or {_PIXELS}", got=repr(input_type)
        )
    if fraction_bits != _AUTO and not (fraction_bits.isascii() and fraction_bits.isdigit()):
        raise IntegerError(
            "Fraction bits are a number.", expected=f"0 to 24, or {_AUTO}", got=repr(fraction_bits)
        )
    return IntegerChoices(
        fraction_bits=None if fraction_bits == _AUTO else int(fraction_bits),
        input_bits=input_bits,
        pixels=input_type == _PIXELS,
        data=None if data is None else str(data),
    )
