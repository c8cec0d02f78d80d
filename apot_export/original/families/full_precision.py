"""Full-precision networks: no clipping thresholds."""

from __future__ import annotations

from collections.abc import Collection

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
