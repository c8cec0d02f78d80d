"""The families with clipping thresholds: integer codebooks, key names, log lines.

`apot_export.original.level_sets` builds the same levels as the training codes do, from float sums.
The two modules share no code, because verification compares one with the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import ClassVar

from apot_export.errors import BitWidthError
from apot_export.network.codebook import (
    Codebook,
    apot,
    apot_candidates,
    power_of_two,
    power_of_two_candidates,
    uniform,
    with_levels_below,
)
from apot_export.original.families._family import ActivationRule, Family, WeightRule
from apot_export.original.quantization import EIGHT_BIT, FLOAT, TERNARY_BITS, Quantization

_WEIGHT_ALPHA = ".weight_quant.wgt_alpha"
"""Key of a weight's threshold in the first code; `quantized_layers` says `weight_alpha`."""

_IGNORED = (".factorW", ".factorA")
"""Gradient factors of training, which evaluation does not read."""


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
        if key.endswith(_WEIGHT_ALPHA):
            return key.removesuffix(_WEIGHT_ALPHA) + ".weight_alpha"
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
        return any(key.endswith(_WEIGHT_ALPHA) for key in keys)

    def activation_rule(self, quantization: Quantization) -> ActivationRule:
        """Return the projection of activations: uniform ones are clipped from above only."""
        return dataclasses.replace(
            super().activation_rule(quantization),
            passes_negative_inputs=quantization.activation_method == "uniform"
            and not quantization.activation_sign,
        )


class ApotV1(FirstKeys):
    """APoT until May 2020: the CIFAR-10 code, and the ImageNet code."""

    name = "apot-v1"
    trees: ClassVar = {"CIFAR": EIGHT_BIT, "ImageNet": FLOAT}
    summary = "activations on the weights' level set, 8-bit first and last layer on CIFAR"


class FirstRelease(FirstKeys):
    """The code that the APoT authors published first, in 2019: keys of `apot-v1`.

    APoT weights of 2, 3 and 5 bits, uniform activations, float first and last layers.

    Weights are projected as `apot-v1` does; at 2 bits both round magnitudes.
    """

    name = "first-release"
    same_keys_as = "apot-v1"
    offered: ClassVar = {"apot": (2, 3, 5)}
    offered_activations: ClassVar = {"uniform": (2, 3, 4, 5, 6, 7, 8)}
    trees: ClassVar = {"CIFAR": FLOAT, "ImageNet": FLOAT}
    other_first_last = FLOAT
    summary = "uniform activations, float first and last layer"


class ApotV2(ThresholdFamily):
    """APoT since May 2020, the MNIST code too: `weight_alpha` and `act_alpha` per convolution."""

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


class NonZero(ThresholdFamily):
    """Enhanced-Quantization: `apot-v1` with a grid without zero for 2-bit weights.

    Its keys are those of `apot-v1`, plus buffers `factorW` and `factorA`.
    """

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


class StepSize(ThresholdFamily):
    """Learned step sizes: integers times a step, as LSQ and its like train them.

    Weights and signed inputs reach from -2 ** (bits - 1) to 2 ** (bits - 1) - 1 steps. A weight's
    threshold is its step; an input's is the step times the highest level. No key is common to such
    codes, so only layers of custom networks, matched by what they compute, are of this family.

    Source: Esser et al., "Learned Step Size Quantization", ICLR 2020.
    """

    name = "step-size"
    offered: ClassVar = {"uniform": (2, 3, 4, 5, 6, 7, 8)}
    other_first_last = FLOAT
    counts_steps = True

    def recognises(self, keys: Collection[str]) -> bool:  # noqa: ARG002 - whatever they are
        """Return False: no key tells."""
        return False

    def weight_rule(self, quantization: Quantization) -> WeightRule:
        """Return the projection of weights: rounded steps, clipped where the codebook ends."""
        bits = quantization.weight_bits - 1
        positive = uniform(bits, signed=False, denominator=1)
        return WeightRule(codebook=with_levels_below(positive, -(1 << bits)), rule="steps")

    def activation_rule(self, quantization: Quantization) -> ActivationRule:
        """Return the projection of activations: signed ones reach a step further below 0."""
        if not quantization.signed_activations:
            return super().activation_rule(quantization)
        bits = quantization.activation_bits - 1
        codebook = with_levels_below(uniform(bits, signed=False), -(1 << bits))
        return ActivationRule(codebook=codebook, input_denominator=codebook.denominator)
