"""Indices, slices, orders of axes and paddings, in terms of `primitives`."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from types import EllipsisType
from typing import Any

import torch
from torch.nn import functional

from apot_export.original import primitives as p
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

_RESHAPES = (
    torch.reshape, torch.flatten, torch.squeeze, torch.unsqueeze, torch.unflatten,
    "reshape", "view", "flatten", "squeeze", "unsqueeze", "unflatten", "view_as", "reshape_as",
)  # fmt: skip
"""Calls whose result is their input's numbers, image by image, in the shape of the result."""
_IDENTITIES = ("contiguous", "detach", "clone", "float", "cpu", "to")
"""Methods that change no number of a float32 tensor."""


def of_same_numbers(target: Any, x: Any, shape: tuple[int, ...]) -> Any:
    """Return the result of a call that keeps all numbers in order; None for other calls."""
    if target in _IDENTITIES or (target in _RESHAPES and shape == shape_of(x) and len(shape) > 1):
        return x
    return kept(p.reshape, x, shape) if target in _RESHAPES else None


def _crop(x: Any, axis: int, start: int, stop: int, step: int = 1) -> Any:
    extents = shape_of(x)
    starts, stops, steps = [0] * len(extents), list(extents), [1] * len(extents)
    starts[axis - 1], stops[axis - 1], steps[axis - 1] = start, stop, step
    return call(p.crop, x, tuple(starts), tuple(stops), tuple(steps))


@rewrites(operator.getitem)
def _getitem(x: Any, index: Any) -> Any:
    if not is_tensor(x):
        return None
    parts = index if isinstance(index, tuple) else (index,)
    extents = shape_of(x)
    given = sum(part is not None and not isinstance(part, EllipsisType) for part in parts)
    full = [slice(None)] * (len(extents) + 1 - given)
    expanded: list[Any] = []
    for part in parts:
        expanded += full if isinstance(part, EllipsisType) else [part]
    expanded += [slice(None)] * (len(extents) + 1 - sum(part is not None for part in expanded))
    if expanded[0] != slice(None):
        raise refused(x, "an index into the batch")
    limits: list[tuple[int, int, int]] = []
    shape: list[int] = []
    for part in expanded[1:]:
        if part is None:
            shape.append(1)
            continue
        extent = extents[len(limits)]
        if isinstance(part, int):
            limits.append((part % extent, part % extent + 1, 1))
        elif isinstance(part, slice) and (part.step is None or part.step > 0):
            limits.append(part.indices(extent))
            shape.append(len(range(*limits[-1])))
        else:
            raise refused(x, f"an index {part}")
    if any(len(range(*limit)) == 0 for limit in limits):
        raise refused(x, f"an empty slice {index}")
    found = x
    if limits != [(0, extent, 1) for extent in extents]:
        found = call(p.crop, x, *(tuple(values) for values in zip(*limits, strict=True)))
    return found if tuple(shape) == shape_of(found) else call(p.reshape, found, tuple(shape))


@rewrites(torch.narrow, "narrow")
def _narrow(x: Traced, dim: int, start: int, length: int) -> Traced:
    return _crop(x, axis_of(x, dim), start, start + length)


@rewrites(torch.select, "select")
def _select(x: Traced, dim: int, index: int) -> Any:
    return _getitem(x, (*[slice(None)] * axis_of(x, dim), index))


@rewrites(torch.split, "split", torch.split_with_sizes, "split_with_sizes")
def _split(x: Traced, split_size_or_sections: Any, dim: int = 0) -> tuple[Traced, ...]:
    axis, sizes = axis_of(x, dim), split_size_or_sections
    extent = shape_of(x)[axis - 1]
    if isinstance(sizes, int):
        sizes = [min(sizes, extent - first) for first in range(0, extent, sizes)]
    ends = [sum(sizes[: number + 1]) for number in range(len(sizes))]
    return tuple(_crop(x, axis, end - size, end) for end, size in zip(ends, sizes, strict=True))


@rewrites(torch.chunk, "chunk")
def _chunk(x: Traced, chunks: int, dim: int = 0) -> tuple[Traced, ...]:
    return _split(x, -(-shape_of(x)[axis_of(x, dim) - 1] // chunks), dim)


@rewrites(torch.unbind, "unbind")
def _unbind(x: Traced, dim: int = 0) -> tuple[Any, ...]:
    axis = axis_of(x, dim)
    return tuple(_select(x, axis, index) for index in range(shape_of(x)[axis - 1]))


@rewrites(torch.permute, "permute")
def _permute(x: Traced, *dims: Any) -> Traced:
    wanted = dims[0] if len(dims) == 1 and isinstance(dims[0], (tuple, list)) else dims
    rank = len(shape_of(x)) + 1
    order = tuple(axis % rank for axis in wanted)
    if order[0] != 0:
        raise refused(x, "a permutation of the batch axis")
    return call(p.transpose, x, order[1:])


@rewrites(torch.transpose, torch.swapaxes, "transpose", "swapaxes")
def _transpose(x: Traced, dim0: int, dim1: int) -> Traced:
    order = list(range(len(shape_of(x)) + 1))
    first, second = axis_of(x, dim0), axis_of(x, dim1)
    order[first], order[second] = second, first
    return _permute(x, *order)


@rewrites(torch.roll, "roll")
def _roll(x: Traced, shifts: Any, dims: Any) -> Traced:
    pairs = ((shifts,), (dims,)) if isinstance(dims, int) else (shifts, dims)
    for shift, dim in zip(*pairs, strict=True):
        axis = axis_of(x, dim)
        extent = shape_of(x)[axis - 1]
        first = -shift % extent
        if first:
            x = call(p.concatenate, axis, _crop(x, axis, first, extent), _crop(x, axis, 0, first))
    return x


@rewrites("repeat", torch.tile, "tile")
def _repeat(x: Traced, *sizes: Any) -> Traced:
    counts = sizes[0] if isinstance(sizes[0], (tuple, list)) else sizes
    if len(counts) != len(shape_of(x)) + 1 or counts[0] != 1:
        raise refused(x, f"repetitions {tuple(counts)}")
    for axis, count in enumerate(counts[1:], start=1):
        x = x if count == 1 else call(p.concatenate, axis, *[x] * count)
    return x


@rewrites(torch.stack)
def _stack(tensors: Sequence[Traced], dim: int = 0) -> Traced:
    shape = shape_of(tensors[0])
    axis = dim % (len(shape) + 2)
    if axis == 0:
        raise refused(tensors[0], "an operation along the batch axis")
    wider = (*shape[: axis - 1], 1, *shape[axis - 1 :])
    return call(p.concatenate, axis, *(call(p.reshape, one, wider) for one in tensors))


@rewrites(torch.cat, torch.concat, torch.concatenate)
def _cat(tensors: Sequence[Traced], dim: int = 0) -> Any:
    axis = axis_of(tensors[0], dim)
    return (kept if axis == 1 else call)(p.concatenate, axis, *tensors)


@rewrites(functional.pad)
def padded(x: Any, pad: Sequence[int], mode: str = "constant", value: Any = None) -> Any:
    """Return a tensor with places added, as `functional.pad` does, or cut off."""
    extents = shape_of(x)
    if mode not in ("constant", *_BORDERS) or len(pad) > 2 * len(extents):
        raise refused(x, f"padding of mode {mode}")
    widths = [*pad, *[0] * (2 * len(extents) - len(pad))]
    before, after = widths[-2::-2], widths[::-2]
    start = tuple(max(0, -width) for width in before)
    stop = tuple(extent - max(0, -width) for extent, width in zip(extents, after, strict=True))
    if any(width < 0 for width in pad):
        x = call(p.crop, x, start, stop, (1,) * len(extents))
    grown = [tuple(max(0, width) for width in widths) for widths in (before, after)]
    if not any(map(any, grown)):
        return x
    if mode not in ("reflect", "circular"):
        return call(p.pad, x, *grown, None if mode == "replicate" else float(value or 0))
    for axis, (low, high) in enumerate(zip(*grown, strict=True), start=1):
        parts = _beside(shape_of(x)[axis - 1], low, high, mode)
        pieces = [x if part is None else _crop(x, axis, *part) for part in parts]
        x = call(p.concatenate, axis, *pieces) if len(pieces) > 1 else x
    return x


_BORDERS = ("replicate", "reflect", "circular")


def _beside(extent: int, low: int, high: int, mode: str) -> list[tuple[int, int] | None]:
    """Return the places that an axis begins and ends with, and None for itself."""
    if mode == "circular":
        first, last = [(extent - low, extent)] * bool(low), [(0, high)] * bool(high)
    else:
        first = [(place, place + 1) for place in range(low, 0, -1)]
        last = [(extent - 1 - away, extent - away) for away in range(1, high + 1)]
    return [*first, None, *last]


@rewrites("expand", "expand_as")
def _expand(x: Traced, *sizes: Any) -> Any:
    wanted: Any = sizes[0] if len(sizes) == 1 and not isinstance(sizes[0], int) else sizes
    wanted = shape_of(wanted) if is_tensor(wanted) else tuple(wanted)[1:]
    extents = shape_of(x)
    if len(wanted) != len(extents):
        raise refused(x, "an expansion to more axes")
    more = tuple(0 if n == -1 else n - extent for n, extent in zip(wanted, extents, strict=True))
    # An extent of 1 grows by its only value.
    return call(p.pad, x, (0,) * len(extents), more, None) if any(more) else x


@rewrites(functional.pixel_shuffle, torch.pixel_shuffle)
def _pixel_shuffle(x: Traced, upscale_factor: int) -> Traced:
    (channels, height, width), r = shape_of(x), upscale_factor
    split = call(p.reshape, x, (channels // r**2, r, r, height, width))
    turned = call(p.transpose, split, (1, 4, 2, 5, 3))
    return call(p.reshape, turned, (channels // r**2, height * r, width * r))


@rewrites(functional.pixel_unshuffle, torch.pixel_unshuffle)
def _pixel_unshuffle(x: Traced, downscale_factor: int) -> Traced:
    (channels, height, width), r = shape_of(x), downscale_factor
    split = call(p.reshape, x, (channels, height // r, r, width // r, r))
    turned = call(p.transpose, split, (1, 3, 5, 2, 4))
    return call(p.reshape, turned, (channels * r * r, height // r, width // r))


@rewrites(torch.channel_shuffle, getattr(functional, "channel_shuffle", "channel_shuffle"))
def _channel_shuffle(x: Traced, groups: int) -> Traced:
    channels, *image = shape_of(x)
    axes = range(3, 3 + len(image))
    split = call(p.reshape, x, (groups, channels // groups, *image))
    return call(p.reshape, call(p.transpose, split, (2, 1, *axes)), (channels, *image))
