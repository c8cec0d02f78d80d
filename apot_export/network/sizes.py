"""Which networks compute images of any height and width."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from apot_export.errors import CaptureError, TargetError
from apot_export.network import operations as op
from apot_export.network.graph import LayerType, Network, Node

_STEP, _LARGEST_STEP = 8, 64
"""By how much larger other images may be; networks halve them up to six times."""
_HEIGHT_AND_WIDTH = (2, 3)
"""Axes, the batch's being 0."""


def of_any_size(network: Network[LayerType]) -> Network[LayerType]:
    """Return a network for images of any size.

    Average pools as large as their input become averages over the whole image where the network
    computes no other size else: with a linear layer behind them, say. All others stay.

    Raises:
        TargetError: A node fixes the height and width.
    """
    try:
        values_with_size(network)
    except TargetError:
        found = with_whole_averages(network, whole_averages(network))
        values_with_size(found)
        return found
    return network


def with_whole_averages(network: Network[LayerType], names: Collection[str]) -> Network[LayerType]:
    """Return a network in which nodes of these names average the whole image."""
    nodes = tuple(
        replace(node, operation=op.GlobalAveragePool()) if node.name in names else node
        for node in network.nodes
    )
    return replace(network, nodes=nodes)


def whole_averages(network: Network[LayerType]) -> set[str]:
    """Return the names of averages over all of their input."""
    return {
        node.name
        for node in network.nodes
        if isinstance(node.operation, op.GlobalAveragePool)
        or (
            isinstance(node.operation, op.AveragePool)
            and node.operation.kernel == network.shapes[node.inputs[0]][1:]
        )
    }


def values_with_size(network: Network[LayerType]) -> set[str]:
    """Return the names of the values whose height and width follow those of the images.

    Raises:
        TargetError: A node fixes them.
    """
    found = {network.input}
    for node in network.nodes:
        shapes = [network.shapes[name] for name in node.inputs]
        sized = [name in found for name in node.inputs]
        # One number for all places fits images of any size.
        beside = [shape[1:] for shape, follows in zip(shapes, sized, strict=True) if not follows]
        numbers = isinstance(node.operation, (op.Add, op.Multiply)) and set(beside) <= {(1, 1)}
        if not any(sized) or _averages_all(node.operation):
            continue
        if (beside and not numbers) or _fixes_size(node.operation):
            what = " and ".join(str(list(shape)) for shape in shapes)
            raise fixed_size(node, f"{type(node.operation).__name__} of {what}")
        found.add(node.name)
    return found


def _averages_all(operation: op.Operation) -> bool:
    """Tell whether one number of each channel remains (or one of all channels)."""
    if isinstance(operation, op.Reduce):
        return set(_HEIGHT_AND_WIDTH) <= set(operation.axes)
    return isinstance(operation, op.GlobalAveragePool)


def _fixes_size(operation: op.Operation) -> bool:
    """Tell whether an operation holds extents of its input, or exchanges or loses one."""
    match operation:
        case op.Flatten() | op.Slice() | op.Reshape() | op.Transpose() | op.Resample():
            return True
        case op.Reduce():
            return bool(set(_HEIGHT_AND_WIDTH) & set(operation.axes))
        case op.Concat():
            return operation.axis != 1
    return False


def at_another_size(network: Network[LayerType]) -> Network[LayerType]:
    """Return a network of any size for larger images, at which every such value is larger.

    Raises:
        TargetError: There is no such size.
    """
    channels, height, width = network.input_shape
    sized = values_with_size(network)
    says = "no value of another size"
    for more in range(_STEP, _LARGEST_STEP + 1, _STEP):
        try:
            other = replace(network, input_shape=(channels, height + more, width + more))
        except CaptureError as error:
            says = str(error)
            continue
        if all(min(_growth(network, other, name)) > 0 for name in sized):
            return other
    raise TargetError(
        "The network computes no larger images than its own.",
        expected=f"images that are up to {_LARGEST_STEP} pixels larger",
        got=says,
        fix="leave out --dynamic-size",
    )


def _growth(one: Network[LayerType], other: Network[LayerType], value: str) -> list[int]:
    pairs = zip(one.shapes[value][1:], other.shapes[value][1:], strict=True)
    return [larger - own for own, larger in pairs]


def fixed_size(node: Node, got: str) -> TargetError:
    """Return the error for a node that fixes the height and width of images."""
    return TargetError(
        "A node fixes the height and width of images.",
        where=node.name,
        expected="a network that averages over the whole image, or whose output is an image",
        got=got,
        fix="leave out --dynamic-size",
    )
