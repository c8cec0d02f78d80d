"""Averages, maxima and interpolations, in terms of `primitives`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from apot_export.original import functions
from apot_export.original import primitives as p
from apot_export.original._arithmetic import affine, function, maximum, minimum
from apot_export.original._calls import (
    REWRITINGS,
    Rewriting,
    axis_of,
    call,
    is_tensor,
    refused,
    rewrites,
    shape_of,
)

# --- averages, maxima and interpolation -----------------------------------------------------------


def _separable(x: fx.Proxy, function: Callable[[torch.Tensor], torch.Tensor]) -> fx.Proxy:
    """Return a linear map of rows and columns, whose matrices are found by probing it."""
    _, height, width = shape_of(x)
    whole = function(torch.ones(1, 1, height, width, dtype=torch.float64))[0, 0]
    row, column = divmod(int(whole.argmax()), whole.shape[1])
    rows = torch.eye(height, dtype=torch.float64)[None, :, :, None].expand(-1, -1, -1, width)
    columns = torch.eye(width, dtype=torch.float64)[None, :, None, :].expand(-1, -1, height, -1)
    by_row, by_column = function(rows)[0, :, :, column].T, function(columns)[0, :, row, :].T
    by_column = by_column / whole[row, column]
    return call(p.resample, x, by_row.float().contiguous(), by_column.float().contiguous())


@rewrites(functional.interpolate, functional.upsample)
def _interpolate(
    x: fx.Proxy,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    *rest: Any,
    **more: Any,
) -> Any:
    extents = shape_of(x)[1:]
    sizes = (size, size) if isinstance(size, int) else size
    scales = scale_factor if isinstance(scale_factor, (tuple, list)) else (scale_factor,) * 2
    if mode == "nearest":
        factors = scales if size is None else [a / b for a, b in zip(sizes, extents, strict=True)]
        if all(float(factor).is_integer() for factor in factors):
            return None
    if sizes is not None and tuple(sizes) == extents:
        return x
    return _separable(
        x, lambda image: functional.interpolate(image, size, scale_factor, mode, *rest, **more)
    )


def _adaptive_size(x: fx.Proxy, output_size: Any) -> tuple[int, ...]:
    """Return the height and width that an adaptive pool gives."""
    pair = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    extents = shape_of(x)[1:]
    return tuple(extent if one is None else one for one, extent in zip(pair, extents, strict=True))


@rewrites(functional.adaptive_avg_pool2d)
def _adaptive_average(x: fx.Proxy, output_size: Any) -> Any:
    size = _adaptive_size(x, output_size)
    if size == (1, 1):
        return None if output_size in (1, (1, 1)) else call(p.global_average, x)
    if size == shape_of(x)[1:]:
        return x
    return _separable(x, lambda image: functional.adaptive_avg_pool2d(image, (size[0], size[1])))


@rewrites(functional.avg_pool2d)
def _average(
    x: fx.Proxy,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: Any = None,
) -> Any:
    if padding in (0, (0, 0)) and not ceil_mode and not divisor_override:
        return None
    options = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    return _separable(x, lambda image: functional.avg_pool2d(image, *options))


@rewrites(functional.adaptive_max_pool2d)
def _adaptive_maximum(x: fx.Proxy, output_size: Any, return_indices: bool = False) -> Any:
    size, extents = _adaptive_size(x, output_size), shape_of(x)[1:]
    if return_indices:
        raise refused(x, "the places of maxima")
    if not any(extent % one for one, extent in zip(size, extents, strict=True)):
        windows = tuple(extent // one for one, extent in zip(size, extents, strict=True))
        return call(p.largest, x, windows, windows, (0, 0))
    for axis, (count, extent) in enumerate(zip(size, extents, strict=True), start=2):
        ends = [(n * extent // count, -(-(n + 1) * extent // count)) for n in range(count)]
        bands = [x.narrow(axis, first, last - first) for first, last in ends]
        x = call(p.concatenate, axis, *(call(p.reduce, band, "max", (axis,)) for band in bands))
    return x


@rewrites(functional.max_pool2d)
def _maximum(
    x: fx.Proxy,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    if not ceil_mode or return_indices or dilation not in (1, (1, 1)):
        return None
    kernel, step, pad = (
        (one, one) if isinstance(one, int) else tuple(one)
        for one in (kernel_size, stride or kernel_size, padding)
    )
    _, *extents = shape_of(x)
    # Repeating the last row never wins a maximum: a window that reaches it has it already.
    more = []
    for extent, window, stride_, width in zip(extents, kernel, step, pad, strict=True):
        count = -(-(extent + 2 * width - window) // stride_) + 1
        count -= (count - 1) * stride_ >= extent + width
        more.append(max(0, (count - 1) * stride_ + window - extent - 2 * width))
    padded = call(p.pad, x, (0, *pad), (0, *(a + b for a, b in zip(pad, more, strict=True))), None)
    return call(p.largest, padded, kernel, step, (0, 0))


def _axes_of(x: fx.Proxy, dim: Any) -> tuple[int, ...]:
    dims = range(1, len(shape_of(x)) + 1) if dim is None else dim
    dims = (dims,) if isinstance(dims, int) else dims
    return tuple(sorted(axis_of(x, axis) for axis in dims))


def _reduced(x: fx.Proxy, function: str, axes: tuple[int, ...], *, keepdim: bool) -> fx.Proxy:
    shape = shape_of(x)
    left = tuple(extent for axis, extent in enumerate(shape, start=1) if axis not in axes)
    image = (2, 3)
    if function == "mean" and len(shape) == 3 and axes == image:  # noqa: PLR2004 - C, H, W
        found = call(p.global_average, x)
    elif function == "max" and len(shape) == 3 and axes == image:  # noqa: PLR2004 - C, H, W
        found = call(p.largest, x, shape[1:], shape[1:], (0, 0))
    elif function == "mean" and (merged := _both(x, axes, keepdim=keepdim)) is not None:
        found = merged
    else:
        found = call(p.reduce, x, function, axes)
    return found if keepdim else call(p.reshape, found, left)


def _both(x: fx.Proxy, axes: tuple[int, ...], *, keepdim: bool) -> fx.Proxy | None:
    """Return the mean of both axes of an image where x is that of one and axes the other."""
    node: Any = x.node
    if not keepdim and node.target is p.reshape:
        node = node.args[0]
    if node.target is not p.reduce or node.args[1] != "mean":
        return None
    source, _, (first,) = node.args if len(node.args[2]) == 1 else (None, None, (0,))
    (second,) = axes if len(axes) == 1 else (0,)
    if not keepdim and node is not x.node and second >= first:
        second += 1
    if source is None or {first, second} != {2, 3} or len(source.meta["shape"]) != 3:  # noqa: PLR2004 - C, H, W
        return None
    return call(p.global_average, x.tracer.proxy(source))


@rewrites(torch.mean, "mean")
def _mean(x: fx.Proxy, dim: Any = None, keepdim: bool = False, **_: Any) -> Any:
    axes = _axes_of(x, dim)
    is_image = len(shape_of(x)) == 3 and axes == (2, 3)  # noqa: PLR2004 - C, H, W
    return None if is_image else _reduced(x, "mean", axes, keepdim=keepdim)


@rewrites(torch.sum, "sum")
def _sum(x: fx.Proxy, dim: Any = None, keepdim: bool = False, **_: Any) -> Any:
    axes = _axes_of(x, dim)
    count = math.prod(shape_of(x)[axis - 1] for axis in axes)
    return affine(_reduced(x, "mean", axes, keepdim=keepdim), count)


@rewrites(torch.amax, "amax")
def _amax(x: fx.Proxy, dim: Any = None, keepdim: bool = False) -> Any:
    return _reduced(x, "max", _axes_of(x, dim), keepdim=keepdim)


@rewrites(torch.amin, "amin")
def _amin(x: fx.Proxy, dim: Any = None, keepdim: bool = False) -> Any:
    return affine(_amax(affine(x, -1.0), dim, keepdim), -1.0)


@rewrites(torch.min, "min")
def _min(x: fx.Proxy, dim: Any = None, keepdim: bool = False) -> Any:
    if is_tensor(dim):
        return minimum(x, dim)
    least, _ = _max(affine(x, -1.0), dim, keepdim)
    return affine(least, -1.0), None


@rewrites(torch.var, "var")
def _var(x: fx.Proxy, dim: Any = None, keepdim: bool = False, **options: Any) -> Any:
    correction = options.pop("correction", options.pop("unbiased", 1))
    if options:
        return None
    axes = _axes_of(x, dim)
    centred = call(p.add, x, affine(call(p.reduce, x, "mean", axes), -1.0))
    count = math.prod(shape_of(x)[axis - 1] for axis in axes)
    squares = call(p.multiply, centred, centred)
    mean = _reduced(squares, "mean", axes, keepdim=keepdim)
    return affine(mean, count / (count - int(correction)))


@rewrites(torch.std, "std")
def _std(x: fx.Proxy, dim: Any = None, keepdim: bool = False, **options: Any) -> Any:
    variance = _var(x, dim, keepdim, **options)
    return None if variance is None else function("sqrt")(variance)


@rewrites(torch.max, "max")
def _max(x: fx.Proxy, dim: Any = None, keepdim: bool = False) -> Any:
    if is_tensor(dim):
        return maximum(x, dim)
    if not isinstance(dim, int):
        raise refused(x, "a maximum of all images")
    return _amax(x, dim, keepdim), None


# --- modules that are operations, in forms that these do not have ---------------------------------


def _of_module(function: Any) -> Rewriting:
    """Return the rewriting of a module whose forward pass is a function of its attributes."""
    _, names, _ = functions.MODULES[function]
    return lambda module, x: REWRITINGS[function](
        x, **{name: getattr(module, name) for name in names if hasattr(module, name)}
    )


MODULES: dict[type, Rewriting] = {
    nn.MaxPool2d: _of_module(functional.max_pool2d),
    nn.AvgPool2d: _of_module(functional.avg_pool2d),
    nn.AdaptiveAvgPool2d: _of_module(functional.adaptive_avg_pool2d),
    nn.Upsample: _of_module(functional.interpolate),
    nn.UpsamplingBilinear2d: _of_module(functional.interpolate),
    nn.Flatten: lambda m, x: (
        None if (m.start_dim, m.end_dim) == (1, -1) else x.flatten(m.start_dim, m.end_dim)
    ),
}
"""By the module's class; the others are leaves of the trace, or what their forward pass calls."""
