"""Decision points of an activation quantizer, found by trying it: no formula is shared with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from apot_export.original.quantized_layers import QuantConv2d

_TRIALS_PER_STEP = 8
"""Values tried per input step: levels are at least half a step apart."""
_BEYOND = 1.25
"""The last decision point lies below the threshold; values up to this multiple are tried."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Decisions:
    """What inputs become which levels."""

    levels: NDArray[np.float64]
    """[levels], ascending: integers in units of the layer's output step."""
    points: NDArray[np.float64]
    """[levels - 1]: the smallest float32 that becomes level i + 1."""

    def distances(
        self, values: NDArray[np.float64], levels: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return how far each value is from the nearest input that becomes the level beside it.

        Args:
            values: Inputs of the quantizer, [count].
            levels: What another implementation made of them, [count].

        Returns:
            Distances in units of the values, [count]; infinite for a level that there is not.
        """
        cells = np.searchsorted(self.levels, levels)
        known = self.levels[np.minimum(cells, len(self.levels) - 1)] == levels
        low = np.concatenate([[-np.inf], self.points])[np.minimum(cells, len(self.points))]
        high = np.concatenate([self.points, [np.inf]])[np.minimum(cells, len(self.points))]
        outside = np.maximum(np.maximum(low - values, values - high), 0)
        return np.where(known, outside, np.inf)


def levels_of(module: QuantConv2d, inputs: torch.Tensor) -> torch.Tensor:
    """Return the integer levels that a layer's quantizer gives, float64, the inputs' shape."""
    step = float(module.act_alpha) / module.activation_denominator()
    return (module.quantized_input(inputs).double() / step).round()


def decisions_of(module: QuantConv2d) -> Decisions:
    """Find the decision points of a layer's input quantizer, to the last bit of float32."""
    alpha = abs(module.act_alpha.item())
    trials = _TRIALS_PER_STEP * module.input_denominator()
    values = torch.linspace(0, alpha * _BEYOND, round(trials * _BEYOND) + 1)

    with torch.no_grad():
        levels = levels_of(module, values)
        changes = torch.nonzero(levels[1:] != levels[:-1])[:, 0]
        # The bits of positive floats are ordered as the floats are.
        low, high = values[changes].view(torch.int32), values[changes + 1].view(torch.int32)
        below = levels[changes]
        while bool((high - low > 1).any()):
            middle = low + (high - low) // 2
            same = levels_of(module, middle.view(torch.float32)) == below
            low, high = torch.where(same, middle, low), torch.where(same, high, middle)
    return Decisions(
        levels=np.concatenate([levels[:1].numpy(), levels[changes + 1].numpy()]),
        points=high.view(torch.float32).double().numpy(),
    )
