"""What forward passes are made of: tensor functions that capture and verification know by name.

A trace expresses PyTorch's many ways of saying the same with these; each computes what the
operation of the same name in `apot_export.network` does. Axes are counted from 1, 0 being the
batch's, and shapes are without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional

FUNCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "exp": torch.exp,
    "log": torch.log,
    "erf": torch.erf,
    "sqrt": torch.sqrt,
    "reciprocal": torch.reciprocal,
    "abs": torch.abs,
}


def multiply(first: Tensor, second: Tensor) -> Tensor:
    """Multiply elementwise."""
    return first * second


def add(first: Tensor, second: Tensor) -> Tensor:
    """Add elementwise."""
    return first + second


def elementwise(x: Tensor, function: str) -> Tensor:
    """Apply a function of `FUNCTIONS` to every number."""
    return FUNCTIONS[function](x)


def scale_bias(x: Tensor, scale: tuple[float, ...], bias: tuple[float, ...]) -> Tensor:
    """Return x * scale + bias, one number for all channels or one a channel."""
    axes = (1, -1, *[1] * (x.ndim - 2))
    return x * x.new_tensor(scale).reshape(axes) + x.new_tensor(bias).reshape(axes)


def rectify(x: Tensor) -> Tensor:
    """Return max(x, 0)."""
    return torch.relu(x)


def clip(x: Tensor, minimum: float, maximum: float) -> Tensor:
    """Return min(max(x, minimum), maximum)."""
    return x.clamp(minimum, maximum)


def reduce(x: Tensor, function: str, axes: tuple[int, ...]) -> Tensor:
    """Return the mean or maximum over axes, which stay."""
    return x.amax(axes, keepdim=True) if function == "max" else x.mean(axes, keepdim=True)


def global_average(x: Tensor, keepdim: bool = True) -> Tensor:
    """Return the mean over height and width, which stay or go."""
    return x.mean((2, 3), keepdim=keepdim)


def average(x: Tensor, kernel: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """Return the mean of windows."""
    return functional.avg_pool2d(x, kernel, stride)


def crop(x: Tensor, start: tuple[int, ...], stop: tuple[int, ...], step: tuple[int, ...]) -> Tensor:
    """Return every step-th place from start to before stop."""
    limits = zip(start, stop, step, strict=True)
    index = (slice(None), *(slice(*one) for one in limits))
    return x[index]


def pad(x: Tensor, before: tuple[int, ...], after: tuple[int, ...], value: float | None) -> Tensor:
    """Add places, with a value or (None) the nearest of the image."""
    if value is None:
        for axis, (low, high) in enumerate(zip(before, after, strict=True), start=1):
            last = x.shape[axis] - 1
            places = torch.arange(-low, last + 1 + high, device=x.device).clamp(0, last)
            x = x.index_select(axis, places)
        return x
    widths = [width for pair in zip(before, after, strict=True) for width in pair[::-1]]
    return functional.pad(x, widths[::-1], value=value)


def reshape(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the numbers of each image in another shape."""
    return x.reshape(x.shape[0], *shape)


def transpose(x: Tensor, order: tuple[int, ...]) -> Tensor:
    """Return another order of the axes."""
    return x.permute(0, *order)


def concatenate(axis: int, *parts: Tensor) -> Tensor:
    """Return tensors one after the other."""
    return torch.cat(parts, axis)


def resample(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Map height and width linearly, by matrices [out, in]."""
    return rows @ x @ columns.T


def largest(
    x: Tensor, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """Return the maximum of windows."""
    return functional.max_pool2d(x, kernel, stride, padding)


def upsample(x: Tensor, scale: tuple[int, int]) -> Tensor:
    """Repeat every number over a block of this height and width."""
    return functional.interpolate(x, scale_factor=tuple(map(float, scale)))


CHOICES = (crop, pad, reshape, transpose, concatenate, largest, upsample)
"""Functions whose results are values of their operands, or constants."""


def tensors_of(results: Any) -> list[Tensor]:
    """Return the tensors in a structure of tuples, lists and dicts, in order."""
    found: list[Tensor] = []

    def collect(value: Any) -> Any:
        if isinstance(value, Tensor):
            found.append(value)
        return value

    fx.node.map_aggregate(results, collect)
    return found
