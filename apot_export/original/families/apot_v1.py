"""APoT as first published: thresholds `weight_quant.wgt_alpha` and `act_alpha` per convolution."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import ClassVar

from apot_export.original.families._family import ActivationRule
from apot_export.original.families._thresholds import WEIGHT_ALPHA, ThresholdFamily
from apot_export.original.quantization import EIGHT_BIT, FLOAT, Quantization


class ApotV1(ThresholdFamily):
    """The CIFAR-10 code, and the ImageNet code before May 2020."""

    name = "apot-v1"
    trees: ClassVar = {"CIFAR": EIGHT_BIT, "ImageNet": FLOAT}
    summary = "activations on the weights' level set, 8-bit first and last layer on CIFAR"
    rounds_magnitudes = True

    def recognises(self, keys: Collection[str]) -> bool:
        """Tell whether any key is a threshold under `weight_quant`."""
        return any(key.endswith(WEIGHT_ALPHA) for key in keys)

    def activation_rule(self, quantization: Quantization) -> ActivationRule:
        """Return the projection of activations: uniform ones are clipped from above only."""
        return dataclasses.replace(
            super().activation_rule(quantization),
            passes_negative_inputs=quantization.activation_method == "uniform",
        )
