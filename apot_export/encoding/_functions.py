"""Functions and tensor methods as operations: most are a module's forward pass under a name."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from torch import fx, nn
from torch.nn import functional

from apot_export.encoding._modules import is_in_place, module_operation
from apot_export.errors import CaptureError
from apot_export.network import Shape
from apot_export.network import operations as op
from apot_export.original import functions
from apot_export.original.tracing import place


class Batch(Enum):
    """The number of images, which a graph leaves open."""

    SIZE = "batch size"


_BATCH_AXIS_AND_FEATURES = 2
_RANK = 4
_HEIGHT_AND_WIDTH = [2, 3]

_IN_PLACE = (operator.iadd, "add_", "relu_", "clamp_", "clip_")


def function_operations(
    node: fx.Node,
    arguments: tuple[Any, ...],
    options: Mapping[str, Any],
    image: Callable[[], Shape],
) -> list[op.Operation]:
    """Return what a call does, as operations in turn; none where evaluation mode makes it void.

    Args:
        node: The call.
        arguments: Its positional arguments: tensors are still nodes, sizes are numbers.
        options: Its keyword arguments.
        image: Tells the shape of the first tensor without the batch axis.

    Raises:
        CaptureError: The intermediate representation has no such operation.
    """
    target, extra = node.target, arguments[1:]
    if target in functions.IDENTITIES:
        return []
    if target in functions.MODULES:
        operation = module_operation(place(node), _module(node, extra, options), image, {})
        return [] if operation is None else [operation]
    operations: list[op.Operation] | None = None
    if target in functions.MEANS:
        operations = _mean(image(), **_bound(node, extra, options, ("dim", "keepdim")))
    elif target in functions.ADDITIONS:
        tensors = [argument for argument in arguments if isinstance(argument, fx.Node)]
        operations = [op.Add()] if len(tensors) == len(arguments) == 2 and not options else None  # noqa: PLR2004 - a + b
    elif target in functions.CONCATENATIONS:
        axis = _bound(node, extra, options, ("dim",)).get("dim", 0)
        operations = [op.Concat()] if axis in (1, -len(image())) else None
    elif target in functions.CLIPS:
        operations = _clip(**_bound(node, extra, options, ("min", "max")))
    elif target in functions.RESHAPES and not options:
        operations = _reshape(extra, image())
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


def _reshape(extra: tuple[Any, ...], image: Shape) -> list[op.Operation] | None:
    wanted = extra[0] if len(extra) == 1 and isinstance(extra[0], (tuple, list)) else extra
    if len(wanted) != _BATCH_AXIS_AND_FEATURES:
        return None
    batch, features = wanted
    known = {math.prod(image)} | ({-1} if batch is Batch.SIZE else set())
    return [op.Flatten()] if (batch is Batch.SIZE or batch == -1) and features in known else None
