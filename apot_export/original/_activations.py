"""Activation functions and clips, in terms of `primitives`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn import functional

from apot_export.original import primitives as p
from apot_export.original._arithmetic import affine, per_channel
from apot_export.original._calls import (
    REWRITINGS,
    Rewriting,
    Traced,
    axis_of,
    call,
    constant_in,
    kept,
    refused,
    rewrites,
    shape_of,
)


def _above(x: Traced) -> Traced:
    """Return the part of x above 0; that of -x is its part below, without the sign."""
    return call(p.rectify, x)


def _leaky_relu(x: Traced, negative_slope: float = 0.01, *_: Any, **__: Any) -> Traced:
    below = _above(-x)
    return _above(x) + below * -negative_slope


def _elu(x: Traced, alpha: float = 1.0, *_: Any, scale: float = 1.0, **__: Any) -> Traced:
    below = _above(-x) * (-1.0 / scale)
    return _above(x) + affine(below.exp(), alpha, -alpha)


def _hardsigmoid(x: Traced, **_: Any) -> Traced:
    return call(p.clip, x + 3, 0.0, 6.0) / 6


def _softplus(x: Traced, beta: float = 1.0, *_: Any, **__: Any) -> Traced:
    """Return log(1 + exp(beta x)) / beta; beyond PyTorch's threshold this is x, too."""
    z = x * beta
    log = ((-z.abs()).exp() + 1).log()
    return (_above(z) + log) / beta


@rewrites(functional.gelu)
def _gelu(x: Traced, approximate: str = "none") -> Traced:
    if approximate == "none":
        inner = (x * math.sqrt(0.5)).erf()
    else:
        cubed = x * x * (x * 0.044715)
        inner = ((x + cubed) * math.sqrt(2 / math.pi)).tanh()
    return x * 0.5 * (inner + 1)


@rewrites(functional.prelu, torch.prelu)
def _prelu(x: Traced, weight: Any) -> Traced:
    slopes = constant_in(weight)
    if slopes is None:
        raise refused(x, "a slope that is computed")
    below = _above(-x)
    return _above(x) + per_channel(below, -slopes, None)


@rewrites(functional.rrelu)
def _rrelu(
    x: Traced, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, **_: Any
) -> Traced:
    if training:
        raise refused(x, "random slopes")
    return _leaky_relu(x, (lower + upper) / 2)


@rewrites(functional.softshrink)
def _softshrink(x: Traced, lambd: float = 0.5) -> Traced:
    above, below = (_above(affine(x, sign, -lambd)) for sign in (1.0, -1.0))
    return above + -below


@rewrites(functional.glu)
def _glu(x: Traced, dim: int = -1) -> Traced:
    value, gate = x.chunk(2, dim)
    return value * gate.sigmoid()


def _powers(x: Traced, dim: int) -> tuple[Traced, Traced, Traced]:
    """Return x without its maximum along an axis, the powers of that, and their sum."""
    axes = (axis_of(x, dim),)
    lower = x - call(p.reduce, x, "max", axes)
    powers = lower.exp()
    return lower, powers, call(p.reduce, powers, "mean", axes) * shape_of(x)[axes[0] - 1]


@rewrites(functional.softmax, torch.softmax, "softmax")
def _softmax(x: Traced, dim: int, **_: Any) -> Traced:
    _lower, powers, total = _powers(x, dim)
    return powers / total


@rewrites(functional.log_softmax, torch.log_softmax, "log_softmax")
def _log_softmax(x: Traced, dim: int, **_: Any) -> Traced:
    lower, _, total = _powers(x, dim)
    return lower + -total.log()


_FORMULAS: dict[Any, Rewriting] = {
    functional.leaky_relu: _leaky_relu,
    functional.leaky_relu_: _leaky_relu,
    functional.elu: _elu,
    **dict.fromkeys(
        (functional.celu, torch.celu),
        lambda x, alpha=1.0, *_, **__: _elu(x, alpha, scale=alpha),
    ),
    **dict.fromkeys(
        (functional.selu, torch.selu),
        lambda x, *_, **__: _elu(x, 1.6732632423543772) * 1.0507009873554805,
    ),
    functional.hardsigmoid: _hardsigmoid,
    functional.hardswish: lambda x, **_: x * _hardsigmoid(x),
    functional.silu: lambda x, **_: x * x.sigmoid(),
    functional.softplus: _softplus,
    functional.logsigmoid: lambda x: -_softplus(-x),
    functional.mish: lambda x, **_: x * _softplus(x).tanh(),
    functional.softsign: lambda x: x / (x.abs() + 1),
    functional.tanhshrink: lambda x: x + -x.tanh(),
    functional.softmin: lambda x, dim, **_: _softmax(-x, dim),
}
REWRITINGS |= _FORMULAS

# --- clips ----------------------------------------------------------------------------------------


@rewrites(torch.relu, torch.relu_, "relu", "relu_", functional.relu)
def _relu(x: Traced, inplace: bool = False) -> Traced:
    return kept(p.rectify, x, in_place=inplace)


@rewrites(functional.relu6)
def _relu6(x: Traced, inplace: bool = False) -> Traced:
    return kept(p.clip, x, 0.0, 6.0, in_place=inplace)


@rewrites(functional.hardtanh)
def _hardtanh(x: Traced, min_val: Any = -1.0, max_val: Any = 1.0, inplace: bool = False) -> Any:
    return _clip(x, min_val, max_val, in_place=inplace)


@rewrites("clamp_", "clip_")
def _clip(x: Traced, min: Any = None, max: Any = None, *, in_place: bool = False) -> Any:  # noqa: A002 - PyTorch's names
    if max is None and min == 0:
        return kept(p.rectify, x)
    # The artifacts have no infinite attributes.
    if not all(isinstance(limit, (int, float)) and math.isfinite(limit) for limit in (min, max)):
        return None
    return kept(p.clip, x, float(min), float(max), in_place=in_place) if min <= max else None


@rewrites(torch.clamp, torch.clip, "clamp", "clip")
def _clamp(x: Traced, min: Any = None, max: Any = None) -> Any:  # noqa: A002 - PyTorch's names
    if max is not None or not isinstance(min, (int, float)) or min == 0:
        return _clip(x, min, max)
    return _above(x - min) + min


@rewrites(torch.clamp_min, "clamp_min", "clamp_min_")
def _clamp_min(x: Traced, min: Any) -> Any:  # noqa: A002 - PyTorch's names
    return _above(x) if min == 0 else _clamp(x, min)
