"""Averages, maxima, interpolations and dropout, in terms of `primitives`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from apot_export.errors import CaptureError
from apot_export.original import primitives as p
from apot_export.original._arithmetic import maximum, minimum
from apot_export.original._calls import (
    Traced,
    axis_of,
    call,
    is_tensor,
    kept,
    refused,
    rewrites,
    shape_of,
)


def _pair(value: Any) -> tuple[int, int]:
    height, width = value if isinstance(value, (tuple, list)) else (value, value)
    return int(height), int(width)


def _image(x: Traced) -> tuple[int, int]:
    """Return the height and width of an image."""
    shape = shape_of(x)
    if len(shape) != 3:  # noqa: PLR2004 - C, H, W
        raise CaptureError(
            "A pool or an upsampling reads what is no image.",
            expected="[N, channels, height, width]",
            got=str(["N", *shape]),
        )
    return shape[1], shape[2]


def _separable(x: Traced, function: Callable[[torch.Tensor], torch.Tensor]) -> Traced:
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
    x: Traced,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: Any = None,
    recompute_scale_factor: Any = None,
    antialias: bool = False,
) -> Any:
    extents = _image(x)
    if mode == "nearest" and not antialias:
        scales = scale_factor if isinstance(scale_factor, (tuple, list)) else (scale_factor,) * 2
        if size is not None:
            scales = [a / b for a, b in zip(_pair(size), extents, strict=True)]
        if all(float(scale).is_integer() for scale in scales):
            return kept(p.upsample, x, _pair(scales))
    if size is not None and _pair(size) == extents:
        return x
    options = (size, scale_factor, mode, align_corners, recompute_scale_factor, antialias)
    return _separable(x, lambda image: functional.interpolate(image, *options))


def _adaptive_size(x: Traced, output_size: Any) -> tuple[int, int]:
    """Return the height and width that an adaptive pool gives."""
    pair = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    height, width = (
        extent if one is None else one for one, extent in zip(pair, _image(x), strict=True)
    )
    return height, width


@rewrites(functional.adaptive_avg_pool2d)
def _adaptive_average(x: Traced, output_size: Any) -> Any:
    size = _adaptive_size(x, output_size)
    if size == (1, 1):
        return (kept if output_size in (1, (1, 1)) else call)(p.global_average, x)
    if size == _image(x):
        return x
    return _separable(x, lambda image: functional.adaptive_avg_pool2d(image, size))


@rewrites(functional.avg_pool2d)
def _average(
    x: Traced,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: Any = None,
) -> Any:
    _image(x)
    if padding in (0, (0, 0)) and not ceil_mode and not divisor_override:
        return kept(p.average, x, _pair(kernel_size), _pair(stride or kernel_size))
    options = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    return _separable(x, lambda image: functional.avg_pool2d(image, *options))


@rewrites(functional.adaptive_max_pool2d)
def _adaptive_maximum(x: Traced, output_size: Any, return_indices: bool = False) -> Any:
    size, extents = _adaptive_size(x, output_size), _image(x)
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


@rewrites(functional.max_pool2d, functional.max_pool2d_with_indices)
def _maximum(
    x: Traced,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    extents = _image(x)
    if return_indices or _pair(dilation) != (1, 1):
        raise CaptureError(
            "A max-pool has options that the graph cannot express.",
            expected="no dilation, no indices",
            got=f"{dilation=}, {return_indices=}",
        )
    kernel, step, pad = map(_pair, (kernel_size, stride or kernel_size, padding))
    if not ceil_mode:
        return kept(p.largest, x, kernel, step, pad)
    # Repeating the last row never wins a maximum: a window that reaches it has it already.
    more = []
    for extent, window, stride_, width in zip(extents, kernel, step, pad, strict=True):
        count = -(-(extent + 2 * width - window) // stride_) + 1
        count -= (count - 1) * stride_ >= extent + width
        more.append(max(0, (count - 1) * stride_ + window - extent - 2 * width))
    padded = call(p.pad, x, (0, *pad), (0, *(a + b for a, b in zip(pad, more, strict=True))), None)
    return call(p.largest, padded, kernel, step, (0, 0))


@rewrites(functional.dropout, functional.dropout2d)
def _dropout(x: Traced, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:  # noqa: ARG001 - of training
    return None if training else x


def _axes_of(x: Traced, dim: Any) -> tuple[int, ...]:
    dims = range(1, len(shape_of(x)) + 1) if dim is None else dim
    dims = (dims,) if isinstance(dims, int) else dims
    return tuple(sorted(axis_of(x, axis) for axis in dims))


def _reduced(x: Traced, function: str, axes: tuple[int, ...], *, keepdim: bool) -> Traced:
    shape = shape_of(x)
    is_image = len(shape) == 3 and axes == (2, 3)  # noqa: PLR2004 - C, H, W
    if function == "mean" and is_image:
        found = call(p.global_average, x)
    elif is_image:
        found = call(p.largest, x, shape[1:], shape[1:], (0, 0))
    elif function == "mean" and (merged := _both(x, axes, keepdim=keepdim)) is not None:
        found = merged
    else:
        found = call(p.reduce, x, function, axes)
    return found if keepdim else call(p.reshape, found, _without(shape, axes))


def _without(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(extent for axis, extent in enumerate(shape, start=1) if axis not in axes)


def _both(x: Traced, axes: tuple[int, ...], *, keepdim: bool) -> Traced | None:
    """Return the mean of both axes of an image where x is that of one and axes the other."""
    node: Any = x.node
    if not keepdim and node.target is p.reshape:
        node = node.args[0]
    if node.target is not p.reduce or node.args[1] != "mean":
        return None
    source, _, firsts = node.args
    seconds = axes
    if node is not x.node:  # which may be in another shape than without the axis
        if shape_of(x) != _without(source.meta["shape"], firsts):
            return None
        seconds = tuple(axis + (axis >= firsts[0]) for axis in axes)
    if sorted((*firsts, *seconds)) != [2, 3] or len(source.meta["shape"]) != 3:  # noqa: PLR2004 - C, H, W
        return None
    return call(p.global_average, x.tracer.proxy(source))


@rewrites(torch.mean, "mean")
def _mean(x: Traced, dim: Any = None, keepdim: bool = False, **_: Any) -> Any:
    axes = _axes_of(x, dim)
    if len(shape_of(x)) == 3 and axes == (2, 3):  # noqa: PLR2004 - C, H, W
        return kept(p.global_average, x, keepdim)
    return _reduced(x, "mean", axes, keepdim=keepdim)


@rewrites(torch.sum, "sum")
def _sum(x: Traced, dim: Any = None, keepdim: bool = False, **_: Any) -> Any:
    axes = _axes_of(x, dim)
    count = math.prod(shape_of(x)[axis - 1] for axis in axes)
    return _reduced(x, "mean", axes, keepdim=keepdim) * count


@rewrites(torch.amax, "amax")
def _amax(x: Traced, dim: Any = None, keepdim: bool = False) -> Any:
    return _reduced(x, "max", _axes_of(x, dim), keepdim=keepdim)


@rewrites(torch.amin, "amin")
def _amin(x: Traced, dim: Any = None, keepdim: bool = False) -> Any:
    return -_amax(-x, dim, keepdim)


@rewrites(torch.min, "min")
def _min(x: Traced, dim: Any = None, keepdim: bool = False) -> Any:
    if is_tensor(dim):
        return minimum(x, dim)
    least, _ = _max(-x, dim, keepdim)
    return -least, None


@rewrites(torch.var, "var")
def _var(x: Traced, dim: Any = None, keepdim: bool = False, **options: Any) -> Any:
    correction = options.pop("correction", options.pop("unbiased", 1))
    if options:
        return None
    axes = _axes_of(x, dim)
    centred = x - call(p.reduce, x, "mean", axes)
    count = math.prod(shape_of(x)[axis - 1] for axis in axes)
    mean = _reduced(centred * centred, "mean", axes, keepdim=keepdim)
    return mean * (count / (count - int(correction)))


@rewrites(torch.std, "std")
def _std(x: Traced, dim: Any = None, keepdim: bool = False, **options: Any) -> Any:
    variance = _var(x, dim, keepdim, **options)
    return None if variance is None else variance.sqrt()


@rewrites(torch.max, "max")
def _max(x: Traced, dim: Any = None, keepdim: bool = False) -> Any:
    if is_tensor(dim):
        return maximum(x, dim)
    if not isinstance(dim, int):
        raise refused(x, "a maximum of all images")
    return _amax(x, dim, keepdim), None
