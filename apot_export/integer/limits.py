"""What integer networks are limited to."""

from __future__ import annotations

LARGEST_FRACTION_BITS = 24
INPUT_LIMIT = 8
"""Images are clamped to [-8, 8]: normalised pixels stay far inside."""
MULTIPLIER_BITS = 30
"""Bits of the largest multiplier of a requantization."""
