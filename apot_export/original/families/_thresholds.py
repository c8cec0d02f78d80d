"""What the families with clipping thresholds share: integer codebooks, key names, log lines.

`apot_export.original.level_sets` builds the same levels as the training codes do, from float sums.
The two modules share no code, because verification compares one with the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import ClassVar

from apot_export.network.codebook import (
    Codebook,
    apot,
    apot_candidates,
    power_of_two,
    power_of_two_candidates,
    uniform,
)
from apot_export.original.families._family import ActivationRule, Family, WeightRule
from apot_export.original.quantization import TERNARY_BITS, Quantization

WEIGHT_ALPHA = ".weight_quant.wgt_alpha"
"""Key of a weight's threshold in the first code; `quantized_layers` says `weight_alpha`."""


class ThresholdFamily(Family):
    """The level sets of the APoT codes."""

    offered: ClassVar = {
        # A weight has a sign and bits - 1 magnitude bits, an activation bits magnitude bits.
        "apot": (2, 3, 4, 5, 6),
        # Five magnitude bits would reach 2 ** 30: no accumulator holds their products.
        "pot": (2, 3, 4),
        "uniform": (2, 3, 4, 5, 6, 7, 8),
    }

    def canonical_key(self, key: str) -> str | None:
        """Rename `weight_quant.wgt_alpha` to `weight_alpha`."""
        if key.endswith(WEIGHT_ALPHA):
            return key.removesuffix(WEIGHT_ALPHA) + ".weight_alpha"
        return key

    def weight_rule(self, quantization: Quantization) -> WeightRule:
        """Return the projection of weights: a sign and bits - 1 magnitude bits."""
        magnitude_bits = quantization.weight_bits - 1
        if quantization.method == "uniform" or quantization.weight_bits == TERNARY_BITS:
            return WeightRule(codebook=uniform(magnitude_bits, signed=True), rule="round")
        if quantization.method == "pot":
            return WeightRule(
                codebook=power_of_two(magnitude_bits, signed=True),
                rule="nearest",
                candidates=power_of_two_candidates(magnitude_bits),
            )
        return WeightRule(
            codebook=apot(magnitude_bits, signed=True),
            rule="nearest",
            candidates=apot_candidates(magnitude_bits),
        )

    def activation_rule(self, quantization: Quantization) -> ActivationRule:
        """Return the projection of activations: all bits are magnitude, but for a sign."""
        bits, method = quantization.activation_bits, quantization.activation_method
        if method == "uniform":
            signed = quantization.signed_activations
            bits -= signed
            steps = (1 << bits) - 1
            legacy = (1 << (quantization.activation_bits - 1)) - 1
            codebook = uniform(
                bits, signed=signed, denominator=legacy if quantization.legacy_divisor else steps
            )
            return ActivationRule(codebook=codebook, input_denominator=steps)
        made: Codebook = (power_of_two if method == "pot" else apot)(bits, signed=False)
        return ActivationRule(codebook=made, input_denominator=made.denominator)

    def alpha_line(self, weight_alpha: float, activation_alpha: float) -> str:
        """Format thresholds as the CIFAR-10 training log does: rounded to three decimals."""
        return (
            f"clipping threshold weight alpha: {round(weight_alpha, 3):2f}, "
            f"activation alpha: {round(activation_alpha, 3):2f}"
        )


class FirstKeys(ThresholdFamily):
    """The codes of 2019: thresholds `weight_quant.wgt_alpha` and `act_alpha` per convolution."""

    rounds_magnitudes = True

    def recognises(self, keys: Collection[str]) -> bool:
        """Tell whether any key is a threshold under `weight_quant`."""
        return any(key.endswith(WEIGHT_ALPHA) for key in keys)

    def activation_rule(self, quantization: Quantization) -> ActivationRule:
        """Return the projection of activations: uniform ones are clipped from above only."""
        return dataclasses.replace(
            super().activation_rule(quantization),
            passes_negative_inputs=quantization.activation_method == "uniform"
            and not quantization.activation_sign,
        )
