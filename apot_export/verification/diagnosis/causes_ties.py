"""Half-way between two levels: the export took the other one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from apot_export.original.quantized_layers import FirstConv2d, LastLinear, QuantConv2d
from apot_export.verification.diagnosis.candidates import (
    EIGHT_BIT_STEPS,
    agreeing,
    weight_denominator,
    weight_step,
)
from apot_export.verification.diagnosis.differences import (
    Difference,
    LevelDifference,
    WeightDifference,
)

_TIE_ULPS = 2
"""A magnitude this close to the middle of two levels may be a tie in the original's arithmetic."""


@dataclass(frozen=True)
class Rounding:
    """Magnitudes that are rounded to levels, and the two levels around each, as integers."""

    scaled: NDArray[np.float32]
    """With their signs."""
    tied: NDArray[np.bool_]
    below: NDArray[np.int64]
    above: NDArray[np.int64]


def rounding_of_weights(module: nn.Module) -> Rounding | None:
    """Return how a layer's weights are rounded; None where they are not."""
    if isinstance(module, QuantConv2d):
        denominator = weight_denominator(module.quantization)
        return _rounding(module.scaled_weight(), module.weight_levels, denominator)
    if isinstance(module, (FirstConv2d, LastLinear)):
        scaled = module.weight.div(module.weight.max()).mul(EIGHT_BIT_STEPS)
        return _rounding(scaled, torch.arange(float(scaled.abs().max()) + 2), 1)
    return None


def rounding_of_levels(module: QuantConv2d, values: torch.Tensor) -> Rounding:
    """Return how a layer's input is rounded."""
    scaled = module.scaled_input(values)
    return _rounding(scaled, module.activation_levels, module.input_denominator())


def _rounding(scaled: torch.Tensor, level_set: torch.Tensor | None, denominator: int) -> Rounding:
    if level_set is None:
        level_set = torch.arange(denominator + 1) / denominator
    levels = np.sort(level_set.detach().numpy().astype(np.float64))
    numbers = scaled.detach().numpy()
    magnitudes = np.abs(numbers).astype(np.float64)
    upper = np.clip(np.searchsorted(levels, magnitudes), 1, len(levels) - 1)
    below, above = levels[upper - 1], levels[upper]
    ulp = np.spacing(above.astype(np.float32)).astype(np.float64)
    tied = np.abs(magnitudes - (below + above) / 2) <= _TIE_ULPS * ulp
    integers = np.rint(levels * denominator).astype(np.int64)
    return Rounding(numbers, tied, integers[upper - 1], integers[upper])


def tie_rule(difference: Difference) -> str | None:
    """All that differs is a tie, of which the export took the other neighbour."""
    found = None if difference.differs.ndim == 0 else _integers(difference)
    if found is None:
        return None
    rounding, original, export = found
    differs = difference.differs & (original != export)
    if not differs.any() or (difference.differs & ~differs & (original != 0)).any():
        return None
    neighbours = np.sort(np.stack([np.abs(original), np.abs(export)]), axis=0)
    other = (neighbours[0] == rounding.below) & (neighbours[1] == rounding.above)
    same_side = original * export >= 0
    if not (rounding.tied & other & same_side)[differs].all():
        return None
    if _contradicts(rounding.scaled, differs, export):
        return None
    count = int(differs.sum())
    return (
        f"{f'all {count} lie' if count > 1 else 'it lies'} half-way between two levels within "
        f"{_TIE_ULPS} units in the last place, and the export took the other one"
    )


def _contradicts(
    scaled: NDArray[np.float32], differs: NDArray[np.bool_], export: NDArray[Any]
) -> bool:
    """Tell whether one magnitude went both ways, which no rule of rounding does."""
    return any(len(np.unique(export[scaled == value])) > 1 for value in np.unique(scaled[differs]))


def _integers(
    difference: Difference,
) -> tuple[Rounding, NDArray[np.int64], NDArray[np.int64]] | None:
    """Return the rounding, and both sides as integer levels; None where there are none."""
    if isinstance(difference, LevelDifference):
        rounding = rounding_of_levels(difference.module, difference.operand.value)
        return rounding, difference.original, difference.export
    if not isinstance(difference, WeightDifference):
        return None
    rounding_of = rounding_of_weights(difference.run.module)
    step = weight_step(difference.run.module)
    if rounding_of is None or step is None:
        return None
    if difference.in_levels:
        return rounding_of, difference.original, difference.export
    original, export = (
        np.rint(side / step).astype(np.int64) for side in (difference.original, difference.export)
    )
    if not agreeing(difference, export * step, step).all():
        return None
    return rounding_of, original, export
