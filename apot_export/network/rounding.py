"""Bounds on what float32 rounding can change."""

from __future__ import annotations

UNIT_ROUNDOFF = 2.0**-24
"""Largest relative error of one rounding to float32."""


def sum_roundings(terms: float) -> float:
    """Return a bound on the error of a float32 sum, in unit roundoffs of the sum of magnitudes.

    Any order of K additions errs by at most K - 1 of them. Errors of real summations grow with the
    square root of K, and this takes four times that, so that a bound never hides what is not
    rounding.
    """
    return min(terms, 4 * terms**0.5)
