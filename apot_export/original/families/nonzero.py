"""Enhanced-Quantization: the APoT code with a grid without zero for 2-bit weights."""

from __future__ import annotations

from collections.abc import Iterable

from apot_export.errors import BitWidthError
from apot_export.network.codebook import Codebook, apot, apot_candidates
from apot_export.original.families import _level_sets
from apot_export.original.families._protocol import ActivationRule, WeightRule
from apot_export.original.quantization import Quantization

_WEIGHT_ALPHA = ".weight_quant.wgt_alpha"
_IGNORED = (".factorW", ".factorA")
"""Gradient factors of training, which evaluation does not read."""

_MAXIMUM_Z = 14
"""Largest exponent of the lower level for which integers fit the packed format's codebooks."""


class NonZero:
    """The non-zero-grid code: as `apot-v1`, plus buffers `factorW` and `factorA`."""

    name = "nonzero"
    methods = ("apot",)
    has_eight_bit_layers = True

    def bit_widths(self, method: str) -> tuple[int, ...]:
        """Return the nominal bit-widths that the family offers."""
        return (2, 3, 4) if method in self.methods else ()

    def recognises(self, keys: Iterable[str]) -> bool:
        """Tell whether a gradient factor stands beside the thresholds."""
        return any(key.endswith(_IGNORED) for key in keys)

    def canonical_key(self, key: str) -> str | None:
        """Rename `weight_quant.wgt_alpha` to `weight_alpha`; drop the gradient factors."""
        if key.endswith(_IGNORED):
            return None
        if key.endswith(_WEIGHT_ALPHA):
            return key[: -len(_WEIGHT_ALPHA)] + ".weight_alpha"
        return key

    def weight_rule(self, quantization: Quantization) -> WeightRule:
        """Return the projection of weights: this code does not divide by the largest level."""
        if quantization.weight_bits == _level_sets.TERNARY_BITS:
            if quantization.grid == "zero":
                tables, denominator = ((0, 1),), 1
            elif 1 <= quantization.z <= _MAXIMUM_Z:
                denominator = 1 << quantization.z
                tables = ((1, denominator),)
            else:
                raise BitWidthError(
                    "The exponent Z of the non-zero grid is out of range.",
                    expected=f"1 to {_MAXIMUM_Z}",
                    got=str(quantization.z),
                    fix="say the Z that the network was trained with: --z N",
                )
            codebook = Codebook(tables=tables, denominator=denominator, signed=True)
            return WeightRule(codebook=codebook, rule="nearest-undivided", candidates=tables[0])
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

    def activation_rule(self, quantization: Quantization) -> ActivationRule:
        """Return the projection of activations."""
        return _level_sets.activation_rule(quantization)

    def alpha_line(self, weight_alpha: float, activation_alpha: float) -> str:
        """Format thresholds as the training log does: rounded to three decimals."""
        return (
            f"clipping threshold weight alpha: {round(weight_alpha, 3):2f}, "
            f"activation alpha: {round(activation_alpha, 3):2f}"
        )
