"""The level sets that the families share, as codebooks."""

from __future__ import annotations

from apot_export.network.codebook import (
    Codebook,
    apot,
    apot_candidates,
    power_of_two,
    power_of_two_candidates,
    uniform,
)
from apot_export.original.families._protocol import ActivationRule, WeightRule
from apot_export.original.quantization import Quantization

TERNARY_BITS = 2
_BIT_WIDTHS = {
    # A weight has a sign and bits - 1 magnitude bits, an activation bits magnitude bits.
    "apot": (2, 3, 4, 5, 6),
    # Five magnitude bits would reach 2 ** 30: no accumulator holds their products.
    "pot": (2, 3, 4),
    "uniform": (2, 3, 4, 5, 6, 7, 8),
}


def bit_widths(method: str) -> tuple[int, ...]:
    """Return the nominal bit-widths of a level set."""
    return _BIT_WIDTHS[method]


def weight_rule(quantization: Quantization) -> WeightRule:
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


def activation_rule(
    quantization: Quantization, *, passes_negative_inputs: bool = False
) -> ActivationRule:
    """Return the projection of activations: all bits are magnitude."""
    bits = quantization.activation_bits
    if quantization.method == "uniform":
        steps = (1 << bits) - 1
        legacy = (1 << (bits - 1)) - 1
        codebook = uniform(
            bits, signed=False, denominator=legacy if quantization.legacy_divisor else steps
        )
        return ActivationRule(
            codebook=codebook,
            input_denominator=steps,
            passes_negative_inputs=passes_negative_inputs,
        )
    made: Codebook = (power_of_two if quantization.method == "pot" else apot)(bits, signed=False)
    return ActivationRule(codebook=made, input_denominator=made.denominator)
