"""Layers as a fault would have made them, and how well they explain an export's weights."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from apot_export.original import families
from apot_export.original.quantization import Quantization
from apot_export.original.quantized_layers import FirstConv2d, LastLinear, QuantConv2d
from apot_export.verification.diagnosis.differences import Array, Difference, WeightDifference

EIGHT_BIT_STEPS = 127
_VALUE_ROUNDINGS = 4 * 2.0**-24
"""How far a value, rounded a few times, may be from the same value rounded in another order."""
_CHANCE = 1e-3
"""Largest probability that random changes of as many values fit one of the forms tried."""


def requantized(module: QuantConv2d, **changes: Any) -> QuantConv2d:
    """Return a copy of a layer with another quantization.

    Raises:
        BitWidthError: There is no such level set.
    """
    made = copy.deepcopy(module)
    made.quantization = dataclasses.replace(module.quantization, **changes)
    made.reset_level_sets()
    return made


def with_weight(module: QuantConv2d, weight: torch.Tensor) -> QuantConv2d:
    """Return a copy of a layer whose weights are quantized without normalisation."""
    made = requantized(module, normalize_weights=False)
    made.weight = nn.Parameter(weight, requires_grad=False)
    return made


def weight_denominator(quantization: Quantization) -> int:
    """Return the number of steps that make up a weight's threshold."""
    return families.by_name(quantization.family).weight_rule(quantization).codebook.denominator


def weight_step(module: nn.Module) -> float | None:
    """Return the value of one integer level of a layer's weights; None where they are floats."""
    if isinstance(module, QuantConv2d):
        return abs(float(module.weight_alpha)) / weight_denominator(module.quantization)
    if isinstance(module, (FirstConv2d, LastLinear)):
        return float(module.weight.max()) / EIGHT_BIT_STEPS
    return None


def agreeing(difference: WeightDifference, weights: Array, step: float | None) -> NDArray[np.bool_]:
    """Tell where weights are the export's: the same integers, or the same values up to rounding."""
    if difference.in_levels:
        if step is None:
            return np.zeros(weights.shape, dtype=np.bool_)
        return np.asarray(np.rint(weights / step) == difference.export)
    gap = np.abs(weights.astype(np.float64) - difference.export)
    return np.asarray(gap <= _VALUE_ROUNDINGS * np.abs(weights))


def by_chance(difference: Difference, forms: int) -> bool:
    """Tell whether random changes of as many values would fit one of some forms now and then.

    Args:
        difference: With the same shape on both sides.
        forms: Number of tensors that the hypothesis allows.
    """
    if difference.corroborated:
        return False
    total, changed = difference.differs.size, difference.count
    values = max(len(np.unique(side)) for side in (difference.original, difference.export))
    # Tensors with so many changes: which places, times which other values.
    places = math.lgamma(total + 1) - math.lgamma(changed + 1) - math.lgamma(total - changed + 1)
    tensors = places + changed * math.log(max(values - 1, 1))
    return math.log(forms) - tensors > math.log(_CHANCE)


def varied(difference: Difference) -> bool:
    """Tell whether a difference shows enough of a quantizer: three levels, three wrong ones."""
    pairs = np.stack(
        [difference.original[difference.differs], difference.export[difference.differs]]
    )
    few = 3
    wrong = len(np.unique(pairs, axis=1).T)
    return wrong >= few and len(np.unique(difference.export)) >= few
