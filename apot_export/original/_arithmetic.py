"""Sums, products, elementary functions and normalisations, in terms of `primitives`."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from apot_export.original import primitives as p
from apot_export.original._calls import (
    REWRITINGS,
    Rewriting,
    Traced,
    call,
    constant_in,
    is_tensor,
    kept,
    refused,
    rewrites,
    shape_of,
)

# --- arithmetic -----------------------------------------------------------------------------------


def affine(x: Traced, scale: float, bias: float = 0.0) -> Traced:
    """Return x * scale + bias."""
    return call(p.scale_bias, x, (float(scale),), (float(bias),))


def per_channel(x: Traced, scale: Any, bias: Any) -> Traced:
    """Return x * scale + bias with constants of one number a channel; None: 1 and 0."""
    channels = shape_of(x)[0]
    numbers = []
    for given, neutral in ((scale, 1.0), (bias, 0.0)):
        constant = None if given is None else constant_in(given)
        if given is not None and constant is None:
            raise refused(x, "a scale that is computed")
        flat = [neutral] if constant is None else constant.float().flatten().tolist()
        numbers.append(tuple(flat * channels if len(flat) == 1 else flat))
    return call(p.scale_bias, x, *numbers)


def _with_constant(x: Traced, other: Any, *, multiplies: bool) -> Any:
    """Multiply with, or add, a number or a constant tensor."""
    if isinstance(other, (int, float)):
        return affine(x, other) if multiplies else affine(x, 1.0, other)
    constant = constant_in(other)
    if constant is None:
        return None
    rank = len(shape_of(x)) + 1
    full = constant.reshape(*[1] * (rank - constant.ndim), *constant.shape)
    if full.numel() not in (1, shape_of(x)[0]) or full.numel() != full.shape[1]:
        raise refused(x, f"a constant of shape {list(constant.shape)}")
    return per_channel(x, constant, None) if multiplies else per_channel(x, None, constant)


def _same_rank(a: Traced, b: Traced) -> bool:
    return len(shape_of(a)) == len(shape_of(b))


@rewrites(operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_", "multiply")
def _mul(a: Any, b: Any) -> Any:
    if not is_tensor(a):
        a, b = b, a
    if is_tensor(a) and is_tensor(b):
        return call(p.multiply, a, b) if _same_rank(a, b) else None
    return _with_constant(a, b, multiplies=True) if is_tensor(a) else None


@rewrites(operator.add, operator.iadd, torch.add, "add", "add_")
def _add(a: Any, b: Any, *, alpha: float = 1) -> Any:
    if is_tensor(a) and is_tensor(b):
        return kept(p.add, a, b) if alpha == 1 else call(p.add, a, affine(b, alpha))
    if not is_tensor(a):
        a, b = b, a
    if isinstance(b, (int, float)):
        if b == 0:
            return a  # the start of a sum over a list
        b *= alpha
    return _with_constant(a, b, multiplies=False) if is_tensor(a) else None


@rewrites(operator.sub, operator.isub, torch.sub, torch.subtract, "sub", "sub_")
def _sub(a: Any, b: Any, *, alpha: float = 1) -> Any:
    if is_tensor(b):
        if is_tensor(a):
            return call(p.add, a, affine(b, -alpha))
        return _with_constant(affine(b, -alpha), a, multiplies=False)
    constant = constant_in(b)
    return _with_constant(a, -alpha * (b if constant is None else constant), multiplies=False)


@rewrites(operator.truediv, operator.itruediv, torch.div, torch.divide, "div", "div_", "divide")
def _div(a: Any, b: Any) -> Any:
    if is_tensor(b):
        return _mul(a, b.reciprocal())
    constant = constant_in(b)
    return _with_constant(a, 1 / (b if constant is None else constant), multiplies=True)


@rewrites(operator.neg, torch.neg, "neg")
def _neg(x: Any) -> Any:
    return affine(x, -1.0) if is_tensor(x) else None


@rewrites(operator.pow, torch.pow, torch.square, "pow", "square")
def _pow(x: Any, exponent: float = 2) -> Any:
    if exponent == 2:  # noqa: PLR2004 - a square
        return call(p.multiply, x, x)
    if exponent in (3, 4):
        return call(p.multiply, call(p.multiply, x, x), x if exponent == 3 else _pow(x))  # noqa: PLR2004 - a cube
    return x.sqrt() if exponent == 0.5 else None  # noqa: PLR2004 - a root


@rewrites(torch.maximum, "maximum")
def maximum(a: Any, b: Any) -> Any:
    if not (is_tensor(a) and is_tensor(b) and _same_rank(a, b)):
        raise refused(a if is_tensor(a) else b, "a maximum with a constant tensor")
    return call(p.add, a, call(p.rectify, b - a))


@rewrites(torch.minimum, "minimum")
def minimum(a: Any, b: Any) -> Any:
    return -maximum(_neg(a), _neg(b))


# --- functions of every number --------------------------------------------------------------------


def _function(name: str) -> Rewriting:
    return lambda x: call(p.elementwise, x, name)


for _name, _function_of in p.FUNCTIONS.items():
    _targets = (_function_of, _name, f"{_name}_", getattr(functional, _name, _name))
    REWRITINGS |= dict.fromkeys(_targets, _function(_name))
REWRITINGS |= {
    **dict.fromkeys((torch.rsqrt, "rsqrt"), lambda x: x.sqrt().reciprocal()),
    **dict.fromkeys((torch.rsub, "rsub"), lambda a, b: _sub(b, a)),
}


# --- normalisation --------------------------------------------------------------------------------


def _normalized(x: Traced, axes: tuple[int, ...], eps: float, *, centres: bool = True) -> Traced:
    centred = x - call(p.reduce, x, "mean", axes) if centres else x
    variance = call(p.reduce, centred * centred, "mean", axes)
    return centred / affine(variance, 1.0, eps).sqrt()


@rewrites(functional.batch_norm)
def _batch_norm(
    x: Traced,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,  # noqa: ARG001 - of training
    eps: float = 1e-5,
) -> Traced:
    given = (running_mean, running_var, weight, bias)
    mean, variance, factor, shift = (None if one is None else constant_in(one) for one in given)
    if training or mean is None or variance is None:
        raise refused(x, "a batch-norm without running statistics")
    scale = 1 / (variance.double() + eps).sqrt() * (1 if factor is None else factor)
    return per_channel(x, scale, (0 if shift is None else shift) - mean * scale)


@rewrites(functional.group_norm)
def _group_norm(
    x: Traced, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Traced:
    shape = shape_of(x)
    grouped = call(p.reshape, x, (num_groups, math.prod(shape) // num_groups))
    found = call(p.reshape, _normalized(grouped, (2,), eps), shape)
    return found if weight is None and bias is None else per_channel(found, weight, bias)


@rewrites(functional.instance_norm)
def _instance_norm(
    x: Traced,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,  # noqa: ARG001 - of training
    eps: float = 1e-5,
) -> Any:
    if not use_input_stats or running_mean is not None or running_var is not None:
        raise refused(x, "an instance norm with running statistics")
    return _group_norm(x, shape_of(x)[0], weight, bias, eps)


@rewrites(functional.layer_norm)
def _layer_norm(
    x: Traced,
    normalized_shape: Sequence[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *,
    centres: bool = True,
) -> Traced:
    rank = len(shape_of(x))
    first = rank - len(normalized_shape) + 1
    found = _normalized(x, tuple(range(first, rank + 1)), eps, centres=centres)
    if weight is None and bias is None:
        return found
    axes = list(range(1, rank + 1))
    order = (*axes[first - 1 :], *axes[: first - 1])
    if rank > 1 and order != tuple(axes):
        if len(normalized_shape) != 1:
            raise refused(x, "a layer norm of several axes with weights")
        back = (*axes[1:], 1)
        return call(p.transpose, per_channel(call(p.transpose, found, order), weight, bias), back)
    return per_channel(found, weight, bias)


@rewrites(getattr(functional, "rms_norm", "rms_norm"))
def _rms_norm(
    x: Traced, normalized_shape: Sequence[int], weight: Any = None, eps: Any = None
) -> Traced:
    eps = torch.finfo(torch.float32).eps if eps is None else eps
    return _layer_norm(x, normalized_shape, weight, None, eps, centres=False)
