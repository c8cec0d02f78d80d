"""How far apart float32 evaluations of one operation may be: values that carry a bound."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from apot_export.network import operations as op
from apot_export.network.bounds import UNIT_ROUNDOFF, sum_roundings
from apot_export.original import primitives as p
from apot_export.original.quantized_layers import QuantizedLayer, ThresholdLayer, products

_PRODUCT_ROUNDINGS = 12
"""Roundings of one product: both factors' own (levels times thresholds), product and scale."""
_BATCH_NORM_ROUNDINGS = 8


@dataclass(frozen=True)
class Bounded:
    """A float value with the largest error that rounding can have given it."""

    value: torch.Tensor
    bound: torch.Tensor


def exact(value: torch.Tensor) -> Bounded:
    """Return a value without rounding error."""
    return Bounded(value, torch.zeros_like(value))


def bounded_layer(module: nn.Conv2d | nn.Linear, operand: Bounded) -> Bounded:
    """Run a weighted layer; its bound grows with the sum of absolute products."""
    weight = module.quantized_weight() if isinstance(module, QuantizedLayer) else module.weight
    roundings = sum_roundings(weight[0].numel()) + _PRODUCT_ROUNDINGS
    result = module(operand.value)
    if isinstance(module, ThresholdLayer) and module.quantizes_input:
        # Its input is levels, which are compared before they get here.
        magnitude = products(module, module.quantized_input(operand.value).abs(), weight.abs())
        carried = torch.zeros_like(magnitude)
    else:
        magnitude = products(module, operand.value.abs(), weight.abs())
        carried = products(module, operand.bound, weight.abs())
    if module.bias is not None:
        axes = (1, -1, *[1] * (result.ndim - 2))
        magnitude = magnitude + module.bias.abs().reshape(axes)
    return Bounded(result, carried + roundings * UNIT_ROUNDOFF * magnitude)


def bounded_module(module: nn.Module, operand: Bounded) -> Bounded:
    """Run a batch-norm, the only module without weights in a trace."""
    assert isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm))
    return _batch_norm(module, operand)


def bounded_function(
    target: Any, arguments: tuple[Any, ...], call: Callable[[tuple[Any, ...]], Any]
) -> Any:
    """Run a function or method; what is no tensor, as a size, stays what it is.

    Args:
        target: The function of `primitives`; another one, or a method's name, gives no tensor.
        arguments: Its positional arguments, the tensors among them bounded.
        call: Runs it on plain arguments.
    """
    operands: list[Bounded] = []
    _each(arguments, operands.append)
    result = call(_each(arguments, lambda part: part.value))
    if not operands or not isinstance(result, torch.Tensor):
        return result
    if target in _NUMBERWISE:
        return _NUMBERWISE[target](result, arguments, operands)
    if target in (p.rectify, p.clip):
        return Bounded(result, operands[0].bound)
    bound = call(_each(arguments, lambda part: part.bound))
    if target in p.CHOICES:
        # A constant among them, as of a padding, has no error, and may be negative.
        return Bounded(result, bound.abs())
    if target in (p.average, p.global_average):
        window = max(1, operands[0].value.numel() / max(1, result.numel()))
        magnitude = call(_each(arguments, lambda part: part.value.abs()))
        return Bounded(result, bound + (sum_roundings(window) + 2) * UNIT_ROUNDOFF * magnitude)
    raise TypeError(f"no rounding bound for {target}")


_STEEPEST = {
    "sqrt": math.inf,
    "reciprocal": math.inf,
    "exp": math.inf,
    "log": math.inf,
    "erf": 1.13,
}
"""Largest slope of a function where it is not 1: how far an error of its argument carries."""


def _multiplied(result: torch.Tensor, _: Any, operands: list[Bounded]) -> Bounded:
    a, b = operands
    carried = a.bound * b.value.abs() + b.bound * (a.value.abs() + a.bound)
    return Bounded(result, carried + UNIT_ROUNDOFF * result.abs())


def _added(result: torch.Tensor, _: Any, operands: list[Bounded]) -> Bounded:
    return Bounded(result, operands[0].bound + operands[1].bound + UNIT_ROUNDOFF * result.abs())


def _scaled(result: torch.Tensor, arguments: Any, operands: list[Bounded]) -> Bounded:
    (x,), (_, scale, bias) = operands, arguments
    factor = tuple(map(abs, scale))
    magnitude = p.scale_bias(x.value.abs(), factor, tuple(map(abs, bias)))
    carried = p.scale_bias(x.bound, factor, (0.0,))
    return Bounded(result, carried + _BATCH_NORM_ROUNDINGS * UNIT_ROUNDOFF * magnitude)


def _of_function(result: torch.Tensor, arguments: Any, operands: list[Bounded]) -> Bounded:
    (x,), name = operands, arguments[1]
    # Operands are the export's values, without error, unless the export has none of that name.
    carried = torch.where(x.bound > 0, x.bound * _STEEPEST.get(name, 1.0), 0.0)
    magnitude = result.abs() + op.FUNCTIONS[name].scale
    return Bounded(result, carried + op.FUNCTION_ROUNDINGS * UNIT_ROUNDOFF * magnitude)


def _reduced(result: torch.Tensor, arguments: Any, operands: list[Bounded]) -> Bounded:
    (x,), (_, function, axes) = operands, arguments
    if function == "max":
        return Bounded(result, p.reduce(x.bound, "max", axes))
    roundings = sum_roundings(x.value.numel() / max(1, result.numel())) + 2
    magnitude = p.reduce(x.value.abs(), function, axes)
    return Bounded(
        result, p.reduce(x.bound, function, axes) + roundings * UNIT_ROUNDOFF * magnitude
    )


def _resampled(result: torch.Tensor, arguments: Any, operands: list[Bounded]) -> Bounded:
    (x,), (_, rows, columns) = operands, arguments
    roundings = sum_roundings(rows.shape[1]) + sum_roundings(columns.shape[1]) + 2
    magnitude = p.resample(x.value.abs(), rows.abs(), columns.abs())
    carried = p.resample(x.bound, rows.abs(), columns.abs())
    return Bounded(result, carried + roundings * UNIT_ROUNDOFF * magnitude)


_NUMBERWISE: Mapping[Any, Callable[[torch.Tensor, Any, list[Bounded]], Bounded]] = {
    p.multiply: _multiplied,
    p.add: _added,
    p.scale_bias: _scaled,
    p.elementwise: _of_function,
    p.reduce: _reduced,
    p.resample: _resampled,
}
"""Bounds of functions by their results, arguments and bounded operands."""


def _each(arguments: tuple[Any, ...], change: Callable[[Bounded], Any]) -> tuple[Any, ...]:
    """Change the bounded values among arguments, those in lists too."""
    changed: tuple[Any, ...] = fx.node.map_aggregate(
        arguments,
        lambda argument: change(argument) if isinstance(argument, Bounded) else argument,
    )
    return changed


def _batch_norm(
    module: nn.BatchNorm1d | nn.BatchNorm2d | nn.SyncBatchNorm, operand: Bounded
) -> Bounded:
    mean, variance = module.running_mean, module.running_var
    if mean is None or variance is None:
        raise TypeError("a captured batch-norm has running statistics")
    scale = 1 / (variance + module.eps).sqrt() * (module.weight if module.affine else 1)
    shift = (mean * scale).abs() + (module.bias.abs() if module.affine else 0)
    factors = (None, scale.tolist(), shift.tolist())
    return _scaled(module(operand.value), factors, [operand])
