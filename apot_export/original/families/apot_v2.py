"""APoT since May 2020: thresholds `weight_alpha` and `act_alpha` per convolution."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import ClassVar

from apot_export.original.families._family import WeightRule
from apot_export.original.families._thresholds import ThresholdFamily
from apot_export.original.quantization import EIGHT_BIT, TERNARY_BITS, Quantization


class ApotV2(ThresholdFamily):
    """The ImageNet code since May 2020, and the MNIST code."""

    name = "apot-v2"
    trees: ClassVar = {"ImageNet": EIGHT_BIT, "MNIST": EIGHT_BIT}
    had_legacy_divisor = True
    adds_gradient_terms = True

    def recognises(self, keys: Collection[str]) -> bool:
        """Tell whether a `weight_alpha` stands beside an `act_alpha`."""
        return any(
            key.endswith(".weight_alpha") and key.removesuffix("weight_alpha") + "act_alpha" in keys
            for key in keys
        )

    def weight_rule(self, quantization: Quantization) -> WeightRule:
        """Return the projection of weights."""
        rule = super().weight_rule(quantization)
        # It rounds 2-bit weights as they are; others take the form (q - t) + t of its gradient.
        zeros = "round" if quantization.weight_bits == TERNARY_BITS else "added"
        return dataclasses.replace(rule, zeros=zeros)

    def alpha_line(self, weight_alpha: float, activation_alpha: float) -> str:
        """Format thresholds as the ImageNet training log does."""
        return f"weight alpha: {weight_alpha:2f}, act alpha: {activation_alpha:2f}"
