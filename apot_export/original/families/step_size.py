"""Learned step sizes: integers times a step, as LSQ and its like train them.

A weight's threshold is its step; an input's is the step times the highest level. No key is common
to such codes, so only layers of custom networks, matched by what they compute, are of this family.

Source: Esser et al., "Learned Step Size Quantization", ICLR 2020.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from apot_export.network.codebook import uniform, with_levels_below
from apot_export.original.families._family import ActivationRule, WeightRule
from apot_export.original.families._thresholds import ThresholdFamily
from apot_export.original.quantization import FLOAT, Quantization


class StepSize(ThresholdFamily):
    """Weights and signed inputs from -2 ** (bits - 1) to 2 ** (bits - 1) - 1 steps."""

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
