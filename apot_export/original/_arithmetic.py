"""Sums, products, functions of every number and normalisations, in terms of `primitives`."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch.nn import functional

from apot_export.original import primitives as p
from apot_export.original._calls import (
    REWRITINGS,
    Rewriting,
    axis_of,
    call,
    constant_in,
    is_tensor,
    refused,
    rewrites,
    shape_of,
)

# --- arithmetic -----------------------------------------------------------------------------------


def affine(x: fx.Proxy, scale: float, bias: float = 0.0) -> fx.Proxy:
    """Return x * scale + bias."""
    return call(p.scale_bias, x, (float(scale),), (float(bias),))


def per_channel(x: fx.Proxy, scale: Any, bias: Any) -> fx.Proxy:
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


def _with_constant(x: fx.Proxy, other: Any, *, multiplies: bool) -> Any:
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


def _same_rank(a: fx.Proxy, b: fx.Proxy) -> bool:
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
        if alpha == 1:
            return None
        return call(p.add, a, affine(b, alpha))
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


@rewrites(torch.rsub, "rsub")
def _rsub(a: Any, b: Any) -> Any:
    return _sub(b, a)


@rewrites(operator.truediv, operator.itruediv, torch.div, torch.divide, "div", "div_", "divide")
def _div(a: Any, b: Any) -> Any:
    if is_tensor(b):
        inverse = function("reciprocal")(b)
        return _mul(a, inverse)
    constant = constant_in(b)
    return _with_constant(a, 1 / (b if constant is None else constant), multiplies=True)


@rewrites(operator.neg, torch.neg, "neg")
def _neg(x: Any) -> Any:
    return affine(x, -1.0) if is_tensor(x) else None


@rewrites(operator.pow, torch.pow, torch.square, "pow", "square")
def _pow(x: Any, exponent: float = 2) -> Any:
    if exponent == 2:  # noqa: PLR2004 - a square
        return call(p.multiply, x, x)
    return function("sqrt")(x) if exponent == 0.5 else None  # noqa: PLR2004 - a root


# --- functions of every number --------------------------------------------------------------------


def function(name: str) -> Rewriting:
    return lambda x: call(p.elementwise, x, name)


for _name in ("sigmoid", "tanh", "exp", "log", "erf", "sqrt", "reciprocal", "abs"):
    _targets = (getattr(torch, _name), _name, f"{_name}_", getattr(functional, _name, _name))
    REWRITINGS.update(dict.fromkeys(_targets, function(_name)))


@rewrites(functional.silu)
def _silu(x: fx.Proxy, **_: Any) -> fx.Proxy:
    return call(p.multiply, x, function("sigmoid")(x))


@rewrites(functional.hardsigmoid)
def _hardsigmoid(x: fx.Proxy, **_: Any) -> fx.Proxy:
    return affine(call(p.clip, affine(x, 1.0, 3.0), 0.0, 6.0), 1 / 6)


@rewrites(functional.hardswish)
def _hardswish(x: fx.Proxy, **_: Any) -> fx.Proxy:
    return call(p.multiply, x, _hardsigmoid(x))


@rewrites(functional.gelu)
def _gelu(x: fx.Proxy, approximate: str = "none") -> fx.Proxy:
    if approximate == "none":
        inner = function("erf")(affine(x, math.sqrt(0.5)))
    else:
        cubed = call(p.multiply, call(p.multiply, x, x), affine(x, 0.044715))
        inner = function("tanh")(affine(call(p.add, x, cubed), math.sqrt(2 / math.pi)))
    return call(p.multiply, affine(x, 0.5), affine(inner, 1.0, 1.0))


@rewrites(functional.leaky_relu, functional.leaky_relu_)
def _leaky_relu(x: fx.Proxy, negative_slope: float = 0.01, **_: Any) -> fx.Proxy:
    below = call(p.rectify, affine(x, -1.0))
    return call(p.add, call(p.rectify, x), affine(below, -negative_slope))


@rewrites(functional.prelu, torch.prelu)
def _prelu(x: fx.Proxy, weight: Any) -> fx.Proxy:
    slopes = constant_in(weight)
    if slopes is None:
        raise refused(x, "a slope that is computed")
    below = call(p.rectify, affine(x, -1.0))
    return call(p.add, call(p.rectify, x), per_channel(below, -slopes, None))


@rewrites(functional.elu)
def _elu(x: fx.Proxy, alpha: float = 1.0, **_: Any) -> fx.Proxy:
    below = affine(call(p.rectify, affine(x, -1.0)), -1.0)
    return call(p.add, call(p.rectify, x), affine(function("exp")(below), alpha, -alpha))


@rewrites(functional.softplus)
def _softplus(x: fx.Proxy, beta: float = 1.0, threshold: float = 20.0) -> fx.Proxy:  # noqa: ARG001 - beyond it x itself, which this is, too
    z = affine(x, beta)
    tail = function("exp")(affine(function("abs")(z), -1.0))
    log = function("log")(affine(tail, 1.0, 1.0))
    return affine(call(p.add, call(p.rectify, z), log), 1 / beta)


@rewrites(functional.mish)
def _mish(x: fx.Proxy, **_: Any) -> fx.Proxy:
    return call(p.multiply, x, function("tanh")(_softplus(x)))


@rewrites(functional.softmax, torch.softmax, "softmax")
def _softmax(x: fx.Proxy, dim: int, **_: Any) -> fx.Proxy:
    axes = (axis_of(x, dim),)
    largest = call(p.reduce, x, "max", axes)
    powers = function("exp")(call(p.add, x, affine(largest, -1.0)))
    total = affine(call(p.reduce, powers, "mean", axes), shape_of(x)[axes[0] - 1])
    return call(p.multiply, powers, function("reciprocal")(total))


@rewrites(torch.clamp_min, "clamp_min", "clamp_min_")
def _clamp_min(x: fx.Proxy, min: Any) -> Any:  # noqa: A002 - PyTorch's names
    return call(p.rectify, x) if min == 0 else _clamp(x, min)


@rewrites(torch.clamp, torch.clip, "clamp", "clip")
def _clamp(x: fx.Proxy, min: Any = None, max: Any = None) -> Any:  # noqa: A002 - PyTorch's names
    if max is not None or not isinstance(min, (int, float)):
        return None
    if min == 0:
        return None
    return affine(call(p.rectify, affine(x, 1.0, -min)), 1.0, min)


# --- normalisation --------------------------------------------------------------------------------


def _normalized(x: fx.Proxy, axes: tuple[int, ...], eps: float) -> fx.Proxy:
    centred = call(p.add, x, affine(call(p.reduce, x, "mean", axes), -1.0))
    variance = call(p.reduce, call(p.multiply, centred, centred), "mean", axes)
    deviation = function("sqrt")(affine(variance, 1.0, eps))
    return call(p.multiply, centred, function("reciprocal")(deviation))


@rewrites(functional.group_norm)
def _group_norm(
    x: fx.Proxy, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> fx.Proxy:
    shape = shape_of(x)
    grouped = call(p.reshape, x, (num_groups, math.prod(shape) // num_groups))
    found = call(p.reshape, _normalized(grouped, (2,), eps), shape)
    return found if weight is None and bias is None else per_channel(found, weight, bias)


@rewrites(functional.instance_norm)
def _instance_norm(
    x: fx.Proxy,
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
    x: fx.Proxy,
    normalized_shape: Sequence[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
) -> fx.Proxy:
    rank = len(shape_of(x))
    first = rank - len(normalized_shape) + 1
    found = _normalized(x, tuple(range(first, rank + 1)), eps)
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
