"""What integer networks are limited to."""

from __future__ import annotations

LARGEST_FRACTION_BITS = 24
DEFAULT_INPUT_BITS = 16
"""Of the input, where the residual stream has fewer: the first layer's sums are wide anyway."""
INPUT_LIMIT = 8
"""Images are clamped to [-8, 8]: normalised pixels stay far inside."""
MULTIPLIER_BITS = 30
"""Bits of the largest multiplier of a requantization."""
