"""Bounds: proofs that integer accumulators stay exact, and what float32 rounding can change."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from apot_export.errors import BoundError
from apot_export.network import CodedLayer, CodedNetwork

FLOAT32_EXACT = 1 << 24
"""Integers of smaller magnitude are exact in float32."""

INT32_LIMIT = 1 << 31
"""Integers of smaller magnitude fit int32."""

IMAGE_LIMIT = 8
"""Magnitude that no number of an image is taken to exceed: normalised pixels stay far inside."""

UNIT_ROUNDOFF = 2.0**-24
"""Largest relative error of one rounding to float32."""


def accumulator_bound(layer: CodedLayer) -> int:
    """Return the largest magnitude that any partial sum of a quantized layer can reach.

    Where levels lie in [0, largest activation level], no partial sum, whatever the order, exceeds
    that level times the sum of an output channel's weights of one sign; signed levels reach the
    largest magnitude of a level times the sum of all magnitudes.

    Raises:
        BoundError: The layer's input stays float.
    """
    levels = layer.levels().reshape(layer.shape[0], -1)
    most = int(np.abs(layer.codebook.levels).max()) * levels.shape[1]
    exact = np.int32 if most < INT32_LIMIT else np.int64
    sums = levels.sum(axis=1, dtype=exact).astype(np.int64)
    magnitudes = np.abs(levels).sum(axis=1, dtype=exact).astype(np.int64)
    lowest, highest = _level_range(layer)
    if lowest == 0:
        # Positive weights add up to half of the sum of both, negative ones to half the difference.
        magnitudes = (magnitudes + np.abs(sums)) // 2
    return int(magnitudes.max(initial=0)) * max(-lowest, highest)


def _level_range(layer: CodedLayer) -> tuple[int, int]:
    if layer.activation is None:
        raise BoundError("Only a layer with a quantized input has accumulators.", where=layer.name)
    levels = layer.activation.codebook.levels
    return int(levels.min()), int(levels.max())


@dataclass(frozen=True, kw_only=True)
class Proof:
    """How a layer's accumulator is computed exactly."""

    bound: int
    """Largest magnitude of the accumulator."""
    split: int
    """Bits of the low part into which the levels are split first; 0 where they are not."""


def prove(network: CodedNetwork) -> dict[str, Proof]:
    """Prove every quantized layer's accumulator exact; return how, by layer.

    An accumulator that float32 does not hold is the sum of two that it does: one of the levels'
    low bits, one of their high bits, shifted.

    Raises:
        BoundError: An accumulator could reach 2^31, or its parts 2^24.
    """
    proofs: dict[str, Proof] = {}
    for name, layer in network.layers.items():
        if isinstance(layer, CodedLayer) and layer.activation is not None:
            bound = accumulator_bound(layer)
            split = split_bits(layer, bound) if bound >= FLOAT32_EXACT else 0
            proofs[name] = Proof(bound=bound, split=split)
    return proofs


def split_bits(layer: CodedLayer, bound: int) -> int:
    """Return how many low bits of the levels to sum apart, so that float32 holds both sums.

    Raises:
        BoundError: The sum of either part could reach 2^24, or the whole 2^31.
    """
    lowest, highest = _level_range(layer)
    largest = max(-lowest, highest)
    split = (largest.bit_length() + 1) // 2
    part = max(highest >> split, -(lowest >> split), (1 << split) - 1)
    if bound // largest * part >= FLOAT32_EXACT or bound >= INT32_LIMIT:
        raise BoundError(
            "A layer's accumulator could leave the integers that are held exactly.",
            where=layer.name,
            expected=f"a proven bound below 2^31, and below 2^24 = {FLOAT32_EXACT} of the "
            "sums of either half of the levels' bits",
            got=f"{bound}, and {bound // largest * part} of a half",
            fix="use fewer bits or a narrower layer: it cannot be exported exactly",
        )
    return split


def sum_roundings(terms: float) -> float:
    """Return a bound on the error of a float32 sum, in unit roundoffs of the sum of magnitudes.

    Any order of K additions errs by at most K - 1 of them. Errors of real summations grow with the
    square root of K, and this takes four times that, so that a bound never hides what is not
    rounding.
    """
    return min(terms, 4 * terms**0.5)
