"""A batch-norm folded into the weights before it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from apot_export.original.quantized_layers import (
    FirstConv2d,
    LastLinear,
    QuantConv2d,
    QuantizedLayer,
    eight_bit_weight,
)
from apot_export.verification.diagnosis.candidates import agreeing, requantized
from apot_export.verification.diagnosis.causes_weights import explains
from apot_export.verification.diagnosis.differences import (
    MODEL,
    Difference,
    LayerRun,
    ValueDifference,
    WeightDifference,
    within,
)

_SAME = 1e-5
"""Largest relative difference of two spellings of one factor, and of a weight times it."""


def fused_batch_norm(difference: Difference) -> str | None:
    """The scale of the batch-norm after a layer went into the layer's weights."""
    if not isinstance(difference, (WeightDifference, ValueDifference)) or difference.run is None:
        return None
    run = difference.run
    scale = None if run.norm is None else _scale(run.norm)
    if scale is None:
        return None
    if difference.differs.ndim == 0:
        return _without_sums(difference, run)
    if isinstance(difference, WeightDifference):
        return _folded_into_weights(difference, scale)
    return None


def _folded_into_weights(difference: WeightDifference, scale: NDArray[np.float64]) -> str | None:
    if _folded_before_quantization(difference, scale):
        return (
            "the export's weights are exactly the levels of latent weights that were multiplied by "
            "the following batch-norm's gamma / sqrt(variance + eps)"
        )
    if _folded_without_quantization(difference, scale):
        return (
            "the export's weights are the latent weights, not quantized, times the following "
            "batch-norm's gamma / sqrt(variance + eps)"
        )
    return _times_scale(difference, difference.run, scale)


def _without_sums(difference: Difference, run: LayerRun) -> str | None:
    """Explain a layer that is gone from the model while the value after its batch-norm is right."""
    if difference.artifact != MODEL or difference.export.size or run.sums is not None:
        return None
    if not within(run.computed(), run.result):
        return None
    return (
        "the model has no sums of the layer, but the value after its batch-norm, which is right "
        "within float32 rounding, so scales were folded into float weights"
    )


def _times_scale(
    difference: WeightDifference, run: LayerRun, scale: NDArray[np.float64]
) -> str | None:
    factors = _channel_factors(difference)
    if factors is None:
        return None
    ratios = factors / scale
    used = np.isfinite(ratios)
    common = float(np.median(ratios[used])) if used.any() else np.nan
    if not np.allclose(ratios[used], common, rtol=_SAME, atol=0):
        return None
    says = (
        "the export's weights are the original's times the following batch-norm's "
        "gamma / sqrt(variance + eps)"
    )
    if abs(common - 1) <= _SAME:
        return f"{says}, output channel by output channel"
    module = run.module
    if isinstance(module, QuantConv2d):
        step = float(module.act_alpha) / module.activation_denominator()
        if abs(common / step - 1) <= _SAME:
            return f"{says} and the step of its input, {step:.6g}"
    if np.ptp(scale[used]) > _SAME * np.abs(scale[used]).max():
        return f"{says}, and all of them times {common:.6g}"
    return None  # one factor for the whole layer need not come from a batch-norm


def _channel_factors(difference: WeightDifference) -> NDArray[np.float64] | None:
    """Return the factor of each output channel (NaN: its weights are 0), or None without one."""
    original = difference.original.reshape(len(difference.original), -1).astype(np.float64)
    export = difference.export.reshape(original.shape).astype(np.float64)
    power = (original**2).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        factors = (original * export).sum(axis=1) / power
    expected = np.nan_to_num(factors)[:, None] * original
    fits = np.abs(export - expected) <= _SAME * np.abs(expected)
    # One weight a channel is any other weight times some factor.
    shown = int((original != 0).sum()) - int((power > 0).sum())
    return factors if fits.all() and shown > len(factors) else None


def _folded(module: nn.Conv2d | nn.Linear, scale: NDArray[np.float64]) -> torch.Tensor:
    axes = (-1, *[1] * (module.weight.ndim - 1))
    return module.weight.detach() * torch.from_numpy(scale).float().reshape(axes)


def _folded_without_quantization(difference: WeightDifference, scale: NDArray[np.float64]) -> bool:
    if difference.in_levels or not isinstance(difference.run.module, QuantizedLayer):
        return False
    folded = _folded(difference.run.module, scale).numpy()
    return bool((np.abs(difference.export - folded) <= _SAME * np.abs(folded)).all())


def _folded_before_quantization(difference: WeightDifference, scale: NDArray[np.float64]) -> bool:
    module = difference.run.module
    folded = _folded(module, scale)
    if isinstance(module, QuantConv2d):
        candidate = requantized(module)
        candidate.weight = nn.Parameter(folded, requires_grad=False)
        return explains(difference, candidate)
    if not isinstance(module, (FirstConv2d, LastLinear)):
        return False
    weights = eight_bit_weight(folded).numpy()
    return bool(agreeing(difference, weights, float(folded.max()) / 127).all())


def _scale(norm: nn.Module) -> NDArray[np.float64] | None:
    if not isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)) or norm.running_var is None:
        return None
    scale = 1 / np.sqrt(norm.running_var.numpy().astype(np.float64) + norm.eps)
    if norm.affine:
        scale = scale * norm.weight.detach().numpy().astype(np.float64)
    return np.asarray(scale)
