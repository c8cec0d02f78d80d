"""How far apart float32 evaluations of one operation may be: values that carry a bound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from apot_export.network.rounding import UNIT_ROUNDOFF
from apot_export.original.quantized_layers import QuantConv2d, QuantizedLayer

_PRODUCT_ROUNDINGS = 12
"""Roundings of one product: both factors' own (levels times thresholds), product and scale."""
_BATCH_NORM_ROUNDINGS = 8

_SIZES = ("size", "getattr")
_SUMS = ("add", "iadd", "add_")
_CLIPS = ("relu", "relu_", "relu6", "hardtanh", "clamp", "clamp_", "clip", "clip_")
_CHOICES = (
    *("cat", "concat", "concatenate", "interpolate", "max_pool2d"),
    *("view", "reshape", "flatten", "contiguous", "clone", "detach"),
    *("dropout", "dropout2d"),  # which evaluation mode makes void
)
"""Functions whose results are values of their operands: the bounds go the same way."""
_AVERAGES = ("mean", "avg_pool2d", "adaptive_avg_pool2d")

_CLIP_MODULES = (nn.ReLU, nn.Hardtanh)
_CHOICE_MODULES = (
    nn.MaxPool2d,
    nn.Upsample,
    nn.Flatten,
    nn.Identity,
    nn.Dropout,
    nn.Dropout2d,
)
_AVERAGE_MODULES = (nn.AvgPool2d, nn.AdaptiveAvgPool2d)


@dataclass(frozen=True)
class Bounded:
    """A float value with the largest error that rounding can have given it."""

    value: torch.Tensor
    bound: torch.Tensor


def bounded_layer(
    module: nn.Conv2d | nn.Linear, value: torch.Tensor, bound: torch.Tensor
) -> Bounded:
    """Run a weighted layer; its bound grows with the sum of absolute products.

    Any order of K additions errs by at most (K - 1) unit roundoffs of that sum; errors of real
    summations grow with its square root, and this takes four times that, so that a bound never
    hides what is not rounding.
    """
    weight = module.quantized_weight() if isinstance(module, QuantizedLayer) else module.weight
    taps = weight[0].numel()
    roundings = min(taps, 4 * taps**0.5) + _PRODUCT_ROUNDINGS
    if isinstance(module, QuantConv2d):
        quantized = module.quantized_input(value)
        result, magnitude = module(value), _linear(module, quantized.abs(), weight.abs())
        carried = torch.zeros_like(magnitude)
    else:
        result, magnitude = module(value), _linear(module, value.abs(), weight.abs())
        carried = _linear(module, bound, weight.abs())
    if module.bias is not None:
        axes = (1, -1, *[1] * (result.ndim - 2))
        magnitude = magnitude + module.bias.abs().reshape(axes)
    return Bounded(result, carried + roundings * UNIT_ROUNDOFF * magnitude)


def _linear(
    module: nn.Conv2d | nn.Linear, value: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    if isinstance(module, nn.Conv2d):
        return functional.conv2d(
            value, weight, None, module.stride, module.padding, module.dilation, module.groups
        )
    return functional.linear(value, weight)


def bounded_module(module: nn.Module, operand: Bounded) -> Bounded:
    """Run a module without weights, or a batch-norm."""
    value, bound = operand.value, operand.bound
    # A module in place must leave the export's values as they are.
    result = module(value.clone())
    if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
        return _batch_norm(module, operand, result)
    if isinstance(module, _CLIP_MODULES):
        return Bounded(result, bound)
    if isinstance(module, _CHOICE_MODULES):
        return Bounded(result, module(bound))
    if isinstance(module, _AVERAGE_MODULES):
        return _average(operand, result, module)
    raise TypeError(f"no rounding bound for {type(module).__name__}")


def bounded_function(
    name: str, arguments: tuple[Any, ...], call: Callable[[tuple[Any, ...]], Any]
) -> Any:
    """Run a function or method; what is no tensor stays what it is.

    Args:
        name: The function's name.
        arguments: Its positional arguments, the tensors among them bounded.
        call: Runs it on plain arguments.
    """
    operands: list[Bounded] = []
    _each(arguments, operands.append)
    result = call(_each(arguments, lambda operand: operand.value.clone()))
    if not operands or name in _SIZES:
        return result
    if name in _SUMS:
        rounding = UNIT_ROUNDOFF * result.abs()
        return Bounded(result, operands[0].bound + operands[1].bound + rounding)
    if name in _CLIPS:
        return Bounded(result, operands[0].bound)
    if name in _CHOICES:
        return Bounded(result, call(_each(arguments, lambda operand: operand.bound)))
    if name in _AVERAGES:
        return _average(operands[0], result, lambda value: call((value, *arguments[1:])))
    raise TypeError(f"no rounding bound for {name}")


def _each(arguments: tuple[Any, ...], change: Callable[[Bounded], Any]) -> tuple[Any, ...]:
    """Change the bounded values among arguments, those in lists too."""
    changed: tuple[Any, ...] = fx.node.map_aggregate(
        arguments,
        lambda argument: change(argument) if isinstance(argument, Bounded) else argument,
    )
    return changed


def _average(
    operand: Bounded, result: torch.Tensor, average: Callable[[torch.Tensor], torch.Tensor]
) -> Bounded:
    window = max(1, operand.value.numel() / max(1, result.numel()))
    rounding = (4 * window**0.5 + 2) * UNIT_ROUNDOFF * average(operand.value.abs())
    return Bounded(result, average(operand.bound) + rounding)


def _batch_norm(
    module: nn.BatchNorm1d | nn.BatchNorm2d, operand: Bounded, result: torch.Tensor
) -> Bounded:
    mean, variance = module.running_mean, module.running_var
    if mean is None or variance is None:
        raise TypeError("a captured batch-norm has running statistics")
    scale = 1 / (variance + module.eps).sqrt()
    shift = (mean * scale).abs()
    if module.affine:
        scale = scale * module.weight
        shift = (mean * scale).abs() + module.bias.abs()
    axes = (1, -1, *[1] * (operand.value.ndim - 2))
    scale = scale.abs().reshape(axes)
    magnitude = operand.value.abs() * scale + shift.reshape(axes)
    rounding = _BATCH_NORM_ROUNDINGS * UNIT_ROUNDOFF * magnitude
    return Bounded(result, operand.bound * scale + rounding)
