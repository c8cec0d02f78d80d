"""APoT since May 2020: thresholds `weight_alpha` and `act_alpha` per convolution."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from apot_export.original.families import _level_sets
from apot_export.original.families._protocol import ActivationRule, WeightRule
from apot_export.original.quantization import Quantization


class ApotV2:
    """The ImageNet code."""

    name = "apot-v2"
    methods = ("apot", "pot", "uniform")
    has_eight_bit_layers = True

    def bit_widths(self, method: str) -> tuple[int, ...]:
        """Return the nominal bit-widths that the family offers for a level set."""
        return _level_sets.bit_widths(method)

    def recognises(self, keys: Iterable[str]) -> bool:
        """Tell whether a `weight_alpha` stands beside an `act_alpha`."""
        names = set(keys)
        return any(
            key.endswith(".weight_alpha") and key[: -len("weight_alpha")] + "act_alpha" in names
            for key in names
        )

    def canonical_key(self, key: str) -> str | None:
        """Keep the key: `quantized_layers` uses this family's names."""
        return key

    def weight_rule(self, quantization: Quantization) -> WeightRule:
        """Return the projection of weights."""
        rule = _level_sets.weight_rule(quantization)
        # It rounds 2-bit weights as they are; others take the form (q - t) + t of its gradient.
        zeros = "round" if quantization.weight_bits == _level_sets.TERNARY_BITS else "added"
        return dataclasses.replace(rule, zeros=zeros)

    def activation_rule(self, quantization: Quantization) -> ActivationRule:
        """Return the projection of activations."""
        return _level_sets.activation_rule(quantization)

    def alpha_line(self, weight_alpha: float, activation_alpha: float) -> str:
        """Format thresholds as the ImageNet training log does."""
        return f"weight alpha: {weight_alpha:2f}, act alpha: {activation_alpha:2f}"
