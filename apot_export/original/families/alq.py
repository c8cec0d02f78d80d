"""ALQ multi-bit networks: float activations, weights as sums of scaled sign vectors."""

from __future__ import annotations

from collections.abc import Iterable

from apot_export.errors import BitWidthError
from apot_export.original.families._protocol import ActivationRule, WeightRule
from apot_export.original.quantization import FULL_PRECISION_BITS, Quantization


class Alq:
    """Checkpoints that hold `parameters_w_bin` beside their state dict."""

    name = "alq"
    methods = ("apot",)
    has_eight_bit_layers = False

    def bit_widths(self, method: str) -> tuple[int, ...]:
        """Return 32: activations are float, and bits vary from group to group."""
        return (FULL_PRECISION_BITS,) if method in self.methods else ()

    def recognises(self, keys: Iterable[str]) -> bool:
        """Tell whether the bases' key is among a checkpoint's."""
        return "parameters_w_bin" in keys

    def canonical_key(self, key: str) -> str | None:
        """Keep the key."""
        return key

    def weight_rule(self, quantization: Quantization) -> WeightRule:
        """Refuse: weights are planes, not codes."""
        raise BitWidthError("A multi-bit layer has no codebook.", got=str(quantization))

    def activation_rule(self, quantization: Quantization) -> ActivationRule:
        """Refuse: activations stay float."""
        raise BitWidthError("A multi-bit layer has float activations.", got=str(quantization))

    def alpha_line(self, weight_alpha: float, activation_alpha: float) -> str:
        """Refuse: coordinates are per group."""
        raise BitWidthError(
            "A multi-bit layer has no thresholds.", got=f"{weight_alpha}, {activation_alpha}"
        )
