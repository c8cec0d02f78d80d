"""Decision points of an activation quantizer, found by trying it: no formula is shared with it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from apot_export.original.quantized_layers import ThresholdLayer

_LARGEST = int(np.array(np.finfo(np.float32).max).view(np.int32))
"""The largest float32 number's bits: those of floats above 0 are ordered as the floats are."""


def levels_of(module: ThresholdLayer, inputs: torch.Tensor) -> torch.Tensor:
    """Return the integer levels that a layer's quantizer gives, float64, the inputs' shape."""
    step = float(module.act_alpha) / module.activation_denominator()
    return (module.quantized_input(inputs).double() / step).round()


def first_inputs(module: ThresholdLayer, levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the smallest float32 input that becomes each level, [count], or one above it.

    It is infinite where no input does, and minus infinity where all do.
    """
    wanted = torch.from_numpy(levels)
    low = torch.full(wanted.shape, -_LARGEST - 1)
    high = torch.full(wanted.shape, _LARGEST + 1)
    with torch.no_grad():
        while bool((high - low > 1).any()):
            middle = torch.div(low + high, 2, rounding_mode="floor")
            reached = levels_of(module, _float_at(middle)) >= wanted
            low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
    points = _float_at(high.clamp(-_LARGEST, _LARGEST)).double()
    points[high > _LARGEST], points[high == -_LARGEST] = np.inf, -np.inf
    return points.numpy()


def _float_at(places: torch.Tensor) -> torch.Tensor:
    """Return the float32 numbers at places in their order, 0 being at 0."""
    return places.abs().int().view(torch.float32) * places.sign()


def distances(
    module: ThresholdLayer, values: NDArray[np.float64], levels: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return how far each value is from the nearest input that becomes the level beside it.

    Args:
        module: The layer whose input is quantized.
        values: Inputs of the quantizer, [count].
        levels: What another implementation made of them, [count].

    Returns:
        Distances in units of the values, [count]; infinite for a level that there is not.
    """
    each, places = np.unique(levels, return_inverse=True)
    low, high = first_inputs(module, each), first_inputs(module, each + 1)
    known = low < high
    outside = np.maximum(np.maximum(low[places] - values, values - high[places]), 0)
    return np.where(known[places], outside, np.inf)
