"""What a user says of the integer form of a network."""

from __future__ import annotations

from dataclasses import dataclass

from apot_export.arguments import require_fields


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

    def __post_init__(self) -> None:
        require_fields(self)
