"""Enhanced-Quantization: the APoT code with a grid without zero for 2-bit weights."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from apot_export.errors import BitWidthError
from apot_export.network.codebook import Codebook, apot, apot_candidates
from apot_export.original.families._family import WeightRule
from apot_export.original.families._thresholds import ThresholdFamily
from apot_export.original.quantization import EIGHT_BIT, Quantization

_IGNORED = (".factorW", ".factorA")
"""Gradient factors of training, which evaluation does not read."""


class NonZero(ThresholdFamily):
    """The non-zero-grid code: as `apot-v1`, plus buffers `factorW` and `factorA`."""

    name = "nonzero"
    offered: ClassVar = {"apot": (2, 3, 4)}
    trees: ClassVar = {"CIFAR": EIGHT_BIT}
    rounds_magnitudes = True
    divides_weight_levels = False
    exponents = range(1, 15)  # integers of more bits do not fit the packed format's codebooks

    def recognises(self, keys: Collection[str]) -> bool:
        """Tell whether a gradient factor stands beside the thresholds."""
        return any(key.endswith(_IGNORED) for key in keys)

    def canonical_key(self, key: str) -> str | None:
        """Rename `weight_quant.wgt_alpha` to `weight_alpha`; drop the gradient factors."""
        return None if key.endswith(_IGNORED) else super().canonical_key(key)

    def weight_rule(self, quantization: Quantization) -> WeightRule:
        """Return the projection of weights: this code does not divide by the largest level."""
        if self.has_grids(quantization.weight_bits):
            if quantization.grid == "zero":
                table, denominator = (0, 1), 1
            elif quantization.z in self.exponents:
                denominator = 1 << quantization.z
                table = (1, denominator)
            else:
                raise BitWidthError(
                    "The exponent Z of the non-zero grid is out of range.",
                    expected=f"{self.exponents[0]} to {self.exponents[-1]}",
                    got=str(quantization.z),
                    fix="say the Z that the network was trained with: --z N",
                )
            codebook = Codebook(tables=(table,), denominator=denominator, signed=True)
            return WeightRule(codebook=codebook, rule="nearest-undivided", candidates=table)
        magnitude_bits = quantization.weight_bits - 1
        additive = apot(magnitude_bits, signed=True)
        # The sums are multiples of 2 ** -k with the k of the smallest addend.
        codebook = Codebook(
            tables=additive.tables, denominator=1 << (magnitude_bits + 1), signed=True
        )
        return WeightRule(
            codebook=codebook,
            rule="nearest-undivided",
            candidates=apot_candidates(magnitude_bits),
        )
