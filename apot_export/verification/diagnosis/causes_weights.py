"""Faults of the way from latent to quantized weights: a clamp to int8, and normalisation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from apot_export.original.quantized_layers import FirstConv2d, LastLinear, QuantConv2d
from apot_export.verification.diagnosis.candidates import (
    agreeing,
    by_chance,
    weight_step,
    with_weight,
)
from apot_export.verification.diagnosis.causes_ties import rounding_of_weights
from apot_export.verification.diagnosis.differences import Array, Difference, WeightDifference

_INT8_FORMS: dict[str, Callable[[Array], Array]] = {
    "clipped to -128 to 127": lambda integers: np.clip(integers, -128, 127),
    "clipped to -127 to 127": lambda integers: np.clip(integers, -127, 127),
    "wrapped around into int8": lambda integers: (integers + 128) % 256 - 128,
}
_EPSILON = 1e-5
"""What normalisations commonly add so as not to divide by 0."""


def int8_clamp(difference: Difference) -> str | None:
    """The integers of a first or last layer were forced into int8."""
    if not isinstance(difference, WeightDifference) or difference.differs.ndim == 0:
        return None
    module, step = difference.run.module, weight_step(difference.run.module)
    if not isinstance(module, (FirstConv2d, LastLinear)) or step is None:
        return None
    original = difference.original
    integers = np.rint(original if difference.in_levels else original / step)
    for says, forced in _INT8_FORMS.items():
        if agreeing(difference, forced(integers) * step, step).all() and not by_chance(
            difference, len(_INT8_FORMS)
        ):
            return (
                f"the original's integers go from {integers.min():.0f} to {integers.max():.0f}, "
                f"and the export's are exactly those {says}"
            )
    return None


def missing_normalisation(difference: Difference) -> str | None:
    """Weights were not normalised before they were quantized, or in another way."""
    if not isinstance(difference, WeightDifference) or difference.differs.ndim == 0:
        return None
    module = difference.run.module
    if not isinstance(module, QuantConv2d):
        return None
    forms = _normalisations(module)
    for says, weight in forms.items():
        if explains(difference, with_weight(module, weight)) and not by_chance(
            difference, len(forms)
        ):
            return f"the export's weights are exactly the levels of weights that were {says}"
    return None


def explains(difference: WeightDifference, candidate: QuantConv2d) -> bool:
    """Tell whether a layer's quantized weights are the export's, but for ties."""
    weights = candidate.quantized_weight().detach().numpy()
    wrong = ~agreeing(difference, weights, weight_step(candidate))
    if not wrong.any():
        return True
    rounding = rounding_of_weights(candidate)
    ties = rounding is not None and rounding.tied[wrong].all()
    return bool(ties) and int(wrong.sum()) * 2 < difference.count


def _normalisations(module: QuantConv2d) -> dict[str, torch.Tensor]:
    """Return what may have been quantized instead of what the original quantizes."""
    weight = module.weight.detach()
    mean, deviation = weight.mean(), weight.std()
    if not module.quantization.normalize_weights:
        return {"normalised, which the original's are not": (weight - mean) / deviation}
    rows = weight.flatten(1)
    row_mean, row_deviation, row_biased = (
        numbers.reshape(-1, 1, 1, 1)
        for numbers in (rows.mean(dim=1), rows.std(dim=1), rows.std(dim=1, unbiased=False))
    )
    return {
        "not normalised": weight,
        "normalised with the biased standard deviation": (weight - mean)
        / weight.std(unbiased=False),
        "centred, but not divided by their standard deviation": weight - mean,
        "divided by their standard deviation, but not centred": weight / deviation,
        "normalised output channel by output channel": (weight - row_mean) / row_deviation,
        "normalised output channel by output channel with the biased standard deviation": (
            weight - row_mean
        )
        / row_biased,
        f"normalised with {_EPSILON:g} added to the standard deviation": (weight - mean)
        / (deviation + _EPSILON),
        f"normalised with {_EPSILON:g} added to the variance": (weight - mean)
        / (weight.var() + _EPSILON).sqrt(),
        f"normalised with {_EPSILON:g} added to the biased variance": (weight - mean)
        / (weight.var(unbiased=False) + _EPSILON).sqrt(),
        "divided by their largest magnitude instead of normalised": weight / weight.abs().max(),
    }
