"""TF32: a GPU that rounds the factors of float32 products to 10 bits of mantissa."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from apot_export.original.quantized_layers import QuantConv2d, QuantizedLayer
from apot_export.verification.diagnosis.comparisons import summing_layer
from apot_export.verification.diagnosis.differences import (
    Difference,
    LayerRun,
    ValueDifference,
    within,
)
from apot_export.verification.proof.forced import exact
from apot_export.verification.proof.rounding import Bounded

_DROPPED_BITS = 23 - 10
_FEWEST = 3
"""Values that must differ: fewer show no rounding."""


def tf32(difference: Difference) -> str | None:
    """Float values are those of operands that were rounded to 10 bits of mantissa."""
    if not isinstance(difference, ValueDifference) or difference.kind != "values":
        return None
    run = difference.run
    if run is None or isinstance(run.module, QuantConv2d) or difference.differs.ndim == 0:
        return None
    if difference.count < _FEWEST:
        return None
    for says, rounded in _ROUNDINGS.items():
        if within(
            _with_rounded_operands(run.first(len(difference.export)), rounded), difference.export
        ):
            return (
                f"they are, within float32 rounding, what operands rounded to 10 bits of mantissa "
                f"({says}) give"
            )
    return None


def _with_rounded_operands(run: LayerRun, rounded: Callable[..., torch.Tensor]) -> Bounded:
    module = run.module
    weight = module.quantized_weight() if isinstance(module, QuantizedLayer) else module.weight
    layer = summing_layer(module, rounded(weight.detach()))
    layer.bias = None if module.bias is None else nn.Parameter(module.bias.detach())
    operand = exact(rounded(run.operand.value))
    return LayerRun(module=layer, norm=run.norm, operand=operand, sums=None, result=None).computed()


def _rounded(
    values: torch.Tensor, half: Callable[[NDArray[np.uint32]], NDArray[np.uint32]]
) -> torch.Tensor:
    bits = np.ascontiguousarray(values.numpy(), dtype=np.float32).view(np.uint32)
    mask = np.uint32((1 << _DROPPED_BITS) - 1)
    return torch.from_numpy(((bits + half(bits)) & ~mask).view(np.float32))


def nearest_even(values: torch.Tensor) -> torch.Tensor:
    """Round float32 values to 10 bits of mantissa, ties to even."""
    low = np.uint32((1 << (_DROPPED_BITS - 1)) - 1)
    return _rounded(values, lambda bits: low + ((bits >> np.uint32(_DROPPED_BITS)) & np.uint32(1)))


def nearest_away(values: torch.Tensor) -> torch.Tensor:
    """Round float32 values to 10 bits of mantissa, ties away from 0, as `cvt.rna.tf32` does."""
    return _rounded(values, lambda bits: np.full_like(bits, 1 << (_DROPPED_BITS - 1)))


def truncated(values: torch.Tensor) -> torch.Tensor:
    """Cut float32 values off after 10 bits of mantissa."""
    return _rounded(values, np.zeros_like)


_ROUNDINGS = {
    "to nearest, ties to even": nearest_even,
    "to nearest, ties away from 0": nearest_away,
    "towards 0": truncated,
}
