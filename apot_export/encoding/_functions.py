"""Functions and tensor methods as operations: most are a module's forward pass under a name."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import fx, nn
from torch.nn import functional

from apot_export.encoding._modules import is_in_place, module_operation
from apot_export.errors import CaptureError
from apot_export.network import Shape
from apot_export.network import operations as op
from apot_export.original import functions
from apot_export.original import primitives as p
from apot_export.original.tracing import place

_RANK = 4
_HEIGHT_AND_WIDTH = [2, 3]

_IN_PLACE = (operator.iadd, "add_", "relu_", "clamp_", "clip_")


def function_operations(node: fx.Node, image: Shape, traced: fx.GraphModule) -> list[op.Operation]:
    """Return what a call does, as operations in turn; none where evaluation mode makes it void.

    Args:
        node: The call.
        image: Shape of its first tensor without the batch axis.
        traced: The graph, which holds its constants.

    Raises:
        CaptureError: The intermediate representation has no such operation.
    """
    target, arguments, options, extra = node.target, node.args, node.kwargs, node.args[1:]
    if target in _PRIMITIVES:
        constants = [traced_constant(traced, argument) for argument in arguments]
        return [_PRIMITIVES[target](*constants)]
    if target in functions.IDENTITIES:
        return []
    if target in functions.RESHAPES:
        return _reshaped(image, tuple(node.meta["shape"]))
    if target in functions.MODULES:
        operation = module_operation(place(node), _module(node, extra, options), image, {})
        return [] if operation is None else [operation]
    operations: list[op.Operation] | None = None
    if target in functions.MEANS:
        operations = _mean(image, **_bound(node, extra, options, ("dim", "keepdim")))
    elif target in functions.ADDITIONS:
        tensors = [argument for argument in arguments if isinstance(argument, fx.Node)]
        operations = [op.Add()] if len(tensors) == len(arguments) == 2 and not options else None  # noqa: PLR2004 - a + b
    elif target in functions.CONCATENATIONS:
        axis = _bound(node, extra, options, ("dim",)).get("dim", 0)
        operations = [op.Concat()] if axis in (1, -len(image)) else None
    elif target in functions.CLIPS:
        operations = _clip(**_bound(node, extra, options, ("min", "max")))
    if operations is None:
        raise unknown(node)
    return operations


def is_in_place_call(node: fx.Node) -> bool:
    """Tell whether a call leaves its result in its first argument, too."""
    return node.target in _IN_PLACE or (
        # Dropout in place changes nothing in evaluation mode.
        node.target in (functional.relu, functional.relu6, functional.hardtanh)
        and is_in_place(_module(node, node.args[1:], node.kwargs))
    )


def unknown(node: fx.Node) -> CaptureError:
    """Return the error for a call that nothing here understands."""
    return CaptureError(
        "The network does something that the exporter does not know.",
        where=place(node),
        expected="layers, additions, concatenation of channels, ReLU, clips, pools, upsampling, "
        "and flattening all but the batch axis",
        got=node.format_node() or str(node.target),
    )


def _bound(
    node: fx.Node, extra: tuple[Any, ...], options: Mapping[str, Any], names: tuple[str, ...]
) -> dict[str, Any]:
    """Return a call's arguments after the tensor by name."""
    if len(extra) > len(names) or not set(options) <= set(names):
        raise unknown(node)
    return {**dict(zip(names, extra, strict=False)), **options}


def _module(node: fx.Node, extra: tuple[Any, ...], options: Mapping[str, Any]) -> nn.Module:
    kind, names, defaults = functions.MODULES[node.target]
    arguments = {**defaults, **_bound(node, extra, options, names)}
    if arguments.pop("training", False) or arguments.pop("antialias", False):
        raise unknown(node)
    try:
        return kind(**arguments)
    except (TypeError, ValueError, AssertionError) as error:
        raise unknown(node) from error


# --- what a call's arguments make of it; None where no operation does that ------------------------


def _clip(min: Any = None, max: Any = None) -> list[op.Operation] | None:  # noqa: A002 - PyTorch's names
    if max is None and min == 0:
        return [op.Relu()]
    # The artifacts have no infinite attributes.
    if not all(isinstance(limit, (int, float)) and math.isfinite(limit) for limit in (min, max)):
        return None
    return [op.Clip(minimum=float(min), maximum=float(max))] if min <= max else None


def _mean(image: Shape, dim: Any = None, keepdim: Any = False) -> list[op.Operation] | None:
    axes = list(dim) if isinstance(dim, (tuple, list)) else [dim]
    is_whole_image = (
        len(image) + 1 == _RANK
        and all(isinstance(axis, int) for axis in axes)
        and sorted(axis % _RANK for axis in axes) == _HEIGHT_AND_WIDTH
    )
    if not is_whole_image:
        return None
    return [op.GlobalAveragePool()] if keepdim else [op.GlobalAveragePool(), op.Flatten()]


def _reshaped(image: Shape, shape: Shape) -> list[op.Operation]:
    if len(shape) == 1:
        return [op.Flatten()]
    return [] if shape == image else [op.Reshape(shape=shape)]


def traced_constant(traced: fx.GraphModule, argument: Any) -> Any:
    """Return the constant tensor that an argument stands for; any other argument as it is."""
    if isinstance(argument, fx.Node) and argument.op == "get_attr":
        return getattr(traced, str(argument.target)).numpy()
    return argument


_PRIMITIVES: Mapping[Any, Callable[..., op.Operation]] = {
    p.multiply: lambda _a, _b: op.Multiply(),
    p.add: lambda _a, _b: op.Add(),
    p.elementwise: lambda _x, function: op.Elementwise(function=function),
    p.scale_bias: lambda _x, scale, bias: op.ScaleBias(scale=np.array(scale), bias=np.array(bias)),
    p.rectify: lambda _x: op.Relu(),
    p.clip: lambda _x, low, high: op.Clip(minimum=low, maximum=high),
    p.reduce: lambda _x, function, axes: op.Reduce(function=function, axes=axes),
    p.global_average: lambda _x: op.GlobalAveragePool(),
    p.crop: lambda _x, start, stop, step: op.Slice(start=start, stop=stop, step=step),
    p.pad: lambda _x, before, after, value: op.Pad(before=before, after=after, value=value),
    p.reshape: lambda _x, shape: op.Flatten() if len(shape) == 1 else op.Reshape(shape=shape),
    p.transpose: lambda _x, order: op.Transpose(order=order),
    p.concatenate: lambda axis, *_parts: op.Concat(axis=axis),
    p.resample: lambda _x, rows, columns: op.Resample(rows=rows.ravel(), columns=columns.ravel()),
    p.largest: lambda _x, kernel, stride, padding: op.MaxPool(
        kernel=kernel, stride=stride, padding=padding
    ),
}
"""By the function of `primitives`, which has the same arguments."""
