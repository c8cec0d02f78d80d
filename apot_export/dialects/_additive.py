"""The level sets that the additive powers-of-two families share."""

from __future__ import annotations

from apot_export.codebook import Codebook, apot, apot_candidates, uniform
from apot_export.dialects._protocol import WeightRule
from apot_export.quantization import Quantization

TERNARY_BITS = 2


def weight_rule(quantization: Quantization) -> WeightRule:
    """Return the projection of weights: a sign and bits - 1 magnitude bits."""
    magnitude_bits = quantization.weight_bits - 1
    if quantization.method == "uniform" or quantization.weight_bits == TERNARY_BITS:
        rule = "round" if quantization.family == "apot-v1" else "round signed"
        return WeightRule(codebook=uniform(magnitude_bits, signed=True), rule=rule)
    return WeightRule(
        codebook=apot(magnitude_bits, signed=True),
        rule="nearest",
        candidates=apot_candidates(magnitude_bits),
    )


def activation_codebook(quantization: Quantization) -> Codebook:
    """Return the levels of activations: all bits are magnitude."""
    if quantization.method == "uniform":
        return uniform(quantization.activation_bits, signed=False)
    return apot(quantization.activation_bits, signed=False)
