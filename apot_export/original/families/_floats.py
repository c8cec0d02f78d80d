"""The families without clipping thresholds: weights as sign vectors, or as floats."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from apot_export.original.families._family import Family
from apot_export.original.quantization import (
    ASSUMPTION,
    EIGHT_BIT,
    FLOAT,
    FULL_PRECISION_BITS,
    METHODS,
    Stated,
)

_ROUNDED = ("CIFAR", "MNIST")
"""Architectures whose published training codes round the first and last layer at 32 bits, too."""


class Alq(Family):
    """ALQ multi-bit networks: float activations, weights as sums of scaled sign vectors.

    Their checkpoints hold `parameters_w_bin` beside the state dict.
    """

    name = "alq"
    offered: ClassVar = {"apot": (FULL_PRECISION_BITS,)}
    trees: ClassVar = dict.fromkeys(("CIFAR", "MNIST", "ImageNet"), FLOAT)
    other_first_last = FLOAT
    has_sign_vectors = True
    preprocessing = "alq-code"

    def recognises(self, keys: Collection[str]) -> bool:
        """Tell whether the bases' key is among a checkpoint's."""
        return "parameters_w_bin" in keys


class FullPrecision(Family):
    """Checkpoints of 32-bit runs, and of any training code that does not quantize."""

    name = "full-precision"
    offered = dict.fromkeys(METHODS, (FULL_PRECISION_BITS,))

    def recognises(self, keys: Collection[str]) -> bool:
        """Tell whether no key is a clipping threshold."""
        return not any("alpha" in key for key in keys)

    def first_last(self, tree: str) -> Stated[str]:
        """Return 8 bits for the networks of the CIFAR and MNIST codes: no key tells whose it is."""
        return Stated(EIGHT_BIT if tree in _ROUNDED else FLOAT, ASSUMPTION)
