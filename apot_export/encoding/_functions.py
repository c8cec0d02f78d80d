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
from apot_export.network import (
    Add,
    Clip,
    Concat,
    Flatten,
    GlobalAveragePool,
    Operation,
    Relu,
    Shape,
)
from apot_export.original.functions import (
    ADDITIONS,
    CLIPS,
    CONCATENATIONS,
    IDENTITIES,
    MEANS,
    MODULES,
    RESHAPES,
)
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
) -> list[Operation]:
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
    if target in IDENTITIES:
        return []
    if target in MEANS:
        return _mean(node, image(), **_bound(node, extra, options, ("dim", "keepdim")))
    if target in MODULES:
        equivalent = _module(node, extra, options)
        operation = module_operation(place(node), equivalent, image, {})
    elif target in ADDITIONS:
        operation = _sum(node, arguments, options)
    elif target in CONCATENATIONS:
        operation = _concatenation(node, image(), **_bound(node, extra, options, ("dim",)))
    elif target in CLIPS:
        operation = _clip(node, **_bound(node, extra, options, ("min", "max")))
    elif target in RESHAPES:
        operation = _reshape(node, extra, options, image())
    else:
        raise unknown(node)
    return [] if operation is None else [operation]


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
    kind, names, defaults = MODULES[node.target]
    arguments = {**defaults, **_bound(node, extra, options, names)}
    if arguments.pop("training", False) or arguments.pop("antialias", False):
        raise unknown(node)
    try:
        module = kind(**arguments)
    except (TypeError, ValueError, AssertionError) as error:
        raise unknown(node) from error
    return module


def _sum(node: fx.Node, arguments: tuple[Any, ...], options: Mapping[str, Any]) -> Add:
    tensors = [argument for argument in arguments if isinstance(argument, fx.Node)]
    if len(tensors) != 2 or len(arguments) != 2 or options:  # noqa: PLR2004 - a + b
        raise unknown(node)
    return Add()


def _concatenation(node: fx.Node, image: Shape, dim: Any = 0) -> Concat:
    if dim not in (1, -len(image)):
        raise unknown(node)
    return Concat()


def _clip(node: fx.Node, min: Any = None, max: Any = None) -> Clip | Relu:  # noqa: A002 - PyTorch's names
    if max is None and min == 0:
        return Relu()
    limits = (-math.inf if min is None else min, math.inf if max is None else max)
    are_numbers = all(isinstance(limit, (int, float)) for limit in limits)
    # The artifacts have no infinite attributes.
    if not are_numbers or not -math.inf < limits[0] <= limits[1] < math.inf:
        raise unknown(node)
    return Clip(minimum=float(limits[0]), maximum=float(limits[1]))


def _mean(node: fx.Node, image: Shape, dim: Any = None, keepdim: Any = False) -> list[Operation]:
    axes = list(dim) if isinstance(dim, (tuple, list)) else [dim]
    is_whole_image = (
        len(image) + 1 == _RANK
        and all(isinstance(axis, int) for axis in axes)
        and sorted(axis % _RANK for axis in axes) == _HEIGHT_AND_WIDTH
    )
    if not is_whole_image:
        raise unknown(node)
    return [GlobalAveragePool()] if keepdim else [GlobalAveragePool(), Flatten()]


def _reshape(
    node: fx.Node, extra: tuple[Any, ...], options: Mapping[str, Any], image: Shape
) -> Flatten:
    wanted = extra[0] if len(extra) == 1 and isinstance(extra[0], (tuple, list)) else extra
    if len(wanted) == _BATCH_AXIS_AND_FEATURES and not options:
        batch, features = wanted
        known = {math.prod(image)} | ({-1} if batch is Batch.SIZE else set())
        if (batch is Batch.SIZE or batch == -1) and features in known:
            return Flatten()
    raise unknown(node)
