"""APoT since May 2020: thresholds `weight_alpha` and `act_alpha` per convolution."""

from __future__ import annotations

from collections.abc import Iterable

from apot_export.codebook import Codebook
from apot_export.dialects import _additive
from apot_export.dialects._protocol import WeightRule
from apot_export.quantization import Quantization


class ApotV2:
    """The ImageNet code."""

    name = "apot-v2"
    bit_widths = (2, 3, 4, 5, 6)

    def recognises(self, keys: Iterable[str]) -> bool:
        """Tell whether a `weight_alpha` stands beside an `act_alpha`."""
        names = set(keys)
        return any(
            key.endswith(".weight_alpha") and key[: -len("weight_alpha")] + "act_alpha" in names
            for key in names
        )

    def canonical_key(self, key: str) -> str:
        """Keep the key: `torch_layers` uses this family's names."""
        return key

    def weight_rule(self, quantization: Quantization) -> WeightRule:
        """Return the projection of weights."""
        return _additive.weight_rule(quantization)

    def activation_codebook(self, quantization: Quantization) -> Codebook:
        """Return the levels of activations."""
        return _additive.activation_codebook(quantization)

    def alpha_line(self, weight_alpha: float, activation_alpha: float) -> str:
        """Format thresholds as the ImageNet training log does."""
        return f"weight alpha: {weight_alpha:2f}, act alpha: {activation_alpha:2f}"
