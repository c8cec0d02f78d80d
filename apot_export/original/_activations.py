"""Activation functions and clips, in terms of `primitives`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx
from torch.nn import functional

from apot_export.original import primitives as p
from apot_export.original._arithmetic import affine, divided, function, per_channel
from apot_export.original._calls import axis_of, call, constant_in, refused, rewrites, shape_of


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
def _elu(x: fx.Proxy, alpha: float = 1.0, *_: Any, scale: float = 1.0, **__: Any) -> fx.Proxy:
    below = affine(call(p.rectify, affine(x, -1.0)), -1.0 / scale)
    return call(p.add, call(p.rectify, x), affine(function("exp")(below), alpha, -alpha))


@rewrites(functional.celu, torch.celu)
def _celu(x: fx.Proxy, alpha: float = 1.0, *_: Any, **__: Any) -> fx.Proxy:
    return _elu(x, alpha, scale=alpha)


@rewrites(functional.selu, torch.selu)
def _selu(x: fx.Proxy, *_: Any, **__: Any) -> fx.Proxy:
    return affine(_elu(x, 1.6732632423543772), 1.0507009873554805)


@rewrites(functional.softsign)
def _softsign(x: fx.Proxy) -> Any:
    return divided(x, affine(function("abs")(x), 1.0, 1.0))


@rewrites(functional.softshrink)
def _softshrink(x: fx.Proxy, lambd: float = 0.5) -> fx.Proxy:
    above, below = (call(p.rectify, affine(x, sign, -lambd)) for sign in (1.0, -1.0))
    return call(p.add, above, affine(below, -1.0))


@rewrites(functional.tanhshrink)
def _tanhshrink(x: fx.Proxy) -> fx.Proxy:
    return call(p.add, x, affine(function("tanh")(x), -1.0))


@rewrites(functional.rrelu)
def _rrelu(
    x: fx.Proxy, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, **_: Any
) -> fx.Proxy:
    if training:
        raise refused(x, "random slopes")
    return _leaky_relu(x, (lower + upper) / 2)


@rewrites(functional.softplus)
def _softplus(x: fx.Proxy, beta: float = 1.0, threshold: float = 20.0) -> fx.Proxy:  # noqa: ARG001 - beyond it x itself, which this is, too
    z = affine(x, beta)
    tail = function("exp")(affine(function("abs")(z), -1.0))
    log = function("log")(affine(tail, 1.0, 1.0))
    return affine(call(p.add, call(p.rectify, z), log), 1 / beta)


@rewrites(functional.logsigmoid)
def _logsigmoid(x: fx.Proxy) -> fx.Proxy:
    return affine(_softplus(affine(x, -1.0)), -1.0)


@rewrites(functional.glu)
def _glu(x: fx.Proxy, dim: int = -1) -> fx.Proxy:
    value, gate = x.chunk(2, dim)
    return call(p.multiply, value, function("sigmoid")(gate))


@rewrites(functional.mish)
def _mish(x: fx.Proxy, **_: Any) -> fx.Proxy:
    return call(p.multiply, x, function("tanh")(_softplus(x)))


def _powers(x: fx.Proxy, dim: int) -> tuple[fx.Proxy, fx.Proxy, fx.Proxy]:
    """Return x without its maximum along an axis, the powers of that, and their sum."""
    axes = (axis_of(x, dim),)
    lower = call(p.add, x, affine(call(p.reduce, x, "max", axes), -1.0))
    powers = function("exp")(lower)
    total = affine(call(p.reduce, powers, "mean", axes), shape_of(x)[axes[0] - 1])
    return lower, powers, total


@rewrites(functional.softmax, torch.softmax, "softmax")
def _softmax(x: fx.Proxy, dim: int, **_: Any) -> fx.Proxy:
    powers, total = _powers(x, dim)[1:]
    return call(p.multiply, powers, function("reciprocal")(total))


@rewrites(functional.softmin)
def _softmin(x: fx.Proxy, dim: int, **_: Any) -> fx.Proxy:
    return _softmax(affine(x, -1.0), dim)


@rewrites(functional.log_softmax, torch.log_softmax, "log_softmax")
def _log_softmax(x: fx.Proxy, dim: int, **_: Any) -> fx.Proxy:
    lower, *_others, total = _powers(x, dim)
    return call(p.add, lower, affine(function("log")(total), -1.0))


@rewrites(torch.clamp_min, "clamp_min", "clamp_min_")
def _clamp_min(x: fx.Proxy, min: Any) -> Any:  # noqa: A002 - PyTorch's names
    return call(p.rectify, x) if min == 0 else _clamp(x, min)


@rewrites(torch.clamp, torch.clip, "clamp", "clip")
def _clamp(x: fx.Proxy, min: Any = None, max: Any = None) -> Any:  # noqa: A002 - PyTorch's names
    if max is not None or not isinstance(min, (int, float)) or min == 0:
        return None
    return affine(call(p.rectify, affine(x, 1.0, -min)), 1.0, min)
