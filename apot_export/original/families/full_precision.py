"""Full-precision networks of the same training codes: no thresholds, 8-bit first and last layer."""

from __future__ import annotations

from collections.abc import Iterable

from apot_export.errors import BitWidthError
from apot_export.original.families._protocol import ActivationRule, WeightRule
from apot_export.original.quantization import FULL_PRECISION_BITS, Quantization


class FullPrecision:
    """Checkpoints of 32-bit runs."""

    name = "full-precision"
    methods = ("apot", "pot", "uniform")
    has_eight_bit_layers = True

    def bit_widths(self, method: str) -> tuple[int, ...]:
        """Return 32, whatever the level set."""
        return (FULL_PRECISION_BITS,) if method in self.methods else ()

    def recognises(self, keys: Iterable[str]) -> bool:
        """Tell whether no key is a clipping threshold."""
        return not any("alpha" in key for key in keys)

    def canonical_key(self, key: str) -> str | None:
        """Keep the key."""
        return key

    def weight_rule(self, quantization: Quantization) -> WeightRule:
        """Refuse: inner layers of these networks are not quantized."""
        raise BitWidthError("A full-precision layer has no codebook.", got=str(quantization))

    def activation_rule(self, quantization: Quantization) -> ActivationRule:
        """Refuse: activations of these networks are not quantized."""
        raise BitWidthError("A full-precision layer has no codebook.", got=str(quantization))

    def alpha_line(self, weight_alpha: float, activation_alpha: float) -> str:
        """Refuse: there are no thresholds."""
        raise BitWidthError(
            "A full-precision layer has no thresholds.", got=f"{weight_alpha}, {activation_alpha}"
        )
