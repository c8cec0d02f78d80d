"""Functions of `primitives` as operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import fx

from apot_export.encoding._modules import KNOWN
from apot_export.errors import CaptureError
from apot_export.network import operations as op
from apot_export.original import primitives as p
from apot_export.original.tracing import place


def function_operations(node: fx.Node, traced: fx.GraphModule) -> tuple[op.Operation, ...]:
    """Return what a call does, as operations in turn.

    Args:
        node: The call.
        traced: The graph, which holds its constants.

    Raises:
        CaptureError: The intermediate representation has no such operation.
    """
    if node.target not in PRIMITIVES:
        raise unknown(node)
    constants = [_constant(traced, argument) for argument in node.args]
    made = PRIMITIVES[node.target](*constants)
    return made if isinstance(made, tuple) else (made,)


def unknown(node: fx.Node) -> CaptureError:
    """Return the error for a call that nothing here understands."""
    return CaptureError(
        "The network does something that the exporter does not know.",
        where=place(node),
        expected=KNOWN,
        got=node.format_node() or str(node.target),
    )


def _constant(traced: fx.GraphModule, argument: Any) -> Any:
    """Return the constant tensor that an argument stands for; any other argument as it is."""
    if isinstance(argument, fx.Node) and argument.op == "get_attr":
        return getattr(traced, str(argument.target)).numpy()
    return argument


PRIMITIVES: Mapping[Any, Callable[..., op.Operation | tuple[op.Operation, ...]]] = {
    p.multiply: lambda _a, _b: op.Multiply(),
    p.add: lambda _a, _b: op.Add(),
    p.elementwise: lambda _x, function: op.Elementwise(function=function),
    p.scale_bias: lambda _x, scale, bias: op.ScaleBias(scale=np.array(scale), bias=np.array(bias)),
    p.rectify: lambda _x: op.Relu(),
    p.clip: lambda _x, low, high: op.Clip(minimum=low, maximum=high),
    p.reduce: lambda _x, function, axes: op.Reduce(function=function, axes=axes),
    p.global_average: lambda _x, keepdim=True: (
        op.GlobalAveragePool() if keepdim else (op.GlobalAveragePool(), op.Flatten())
    ),
    p.average: lambda _x, kernel, stride: op.AveragePool(kernel=kernel, stride=stride),
    p.crop: lambda _x, start, stop, step: op.Slice(start=start, stop=stop, step=step),
    p.pad: lambda _x, before, after, value: op.Pad(before=before, after=after, value=value),
    p.reshape: lambda _x, shape: op.Flatten() if len(shape) == 1 else op.Reshape(shape=shape),
    p.transpose: lambda _x, order: op.Transpose(order=order),
    p.concatenate: lambda axis, *_parts: op.Concat(axis=axis),
    p.resample: lambda _x, rows, columns: op.Resample(rows=rows.ravel(), columns=columns.ravel()),
    p.largest: lambda _x, kernel, stride, padding: op.MaxPool(
        kernel=kernel, stride=stride, padding=padding
    ),
    p.upsample: lambda _x, scale: op.Upsample(scale=scale),
}
"""By the function of `primitives`, which has the same arguments."""
