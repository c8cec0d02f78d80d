"""The intermediate representation: a graph of operations over named layers.

It knows numpy and no framework. A *source* network holds what training left (latent float weights
and clipping thresholds); a *coded* network holds integers: every weighted layer of it produces
unscaled sums, and an explicit `ScaleBias` after it carries step sizes, batch-norm and bias.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from apot_export.errors import CaptureError
from apot_export.network import operations as op
from apot_export.network.layers import ActivationQuantizer, Layer, SourceLayer
from apot_export.network.planes import Shape
from apot_export.network.shown import Shown, dimensions

LayerType = TypeVar("LayerType", bound=SourceLayer | Layer)


@dataclass(frozen=True, kw_only=True)
class Node:
    """One operation; its name is also the name of the value that it produces."""

    name: str
    inputs: tuple[str, ...]
    operation: op.Operation


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Network(Shown, Generic[LayerType]):
    """Nodes in an order in which every input exists before it is used."""

    nodes: tuple[Node, ...]
    layers: Mapping[str, LayerType]
    input: str
    input_shape: Shape
    """One image: (channels, height, width)."""
    output: str
    further_outputs: tuple[str, ...] = ()
    """Values that the network returns beside its output."""
    shapes: Mapping[str, Shape] = field(init=False)
    """Shape of every value without the batch axis."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "shapes", _infer_shapes(self))

    def users(self, value: str) -> list[Node]:
        """Return the nodes that read a value."""
        return [node for node in self.nodes if value in node.inputs]

    def is_elementary(self, node: Node) -> bool:
        """Tell whether a node is of the operations that integers and native kernels have, too."""
        operation = node.operation
        if isinstance(operation, op.Add):
            return len({self.shapes[name] for name in node.inputs}) == 1
        if isinstance(operation, op.Concat):
            return operation.axis == 1
        return not isinstance(operation, op.SelfComputing)

    def input_quantizer(self, layer: str) -> ActivationQuantizer:
        """Return the quantizer of a layer's input.

        Raises:
            TypeError: The layer's input stays float.
        """
        quantizer = self.layers[layer].activation
        if quantizer is None:
            raise TypeError(f"{layer} has no input quantizer")
        return quantizer

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield "input", dimensions(self.input_shape)
        yield "output", dimensions(self.shapes[self.output])
        yield "layers", len(self.layers)
        yield "nodes", len(self.nodes)


SourceNetwork = Network[SourceLayer]
CodedNetwork = Network[Layer]


def products(network: CodedNetwork) -> int:
    """Return the products of activations and weights of one image."""
    return sum(products_by_node(network).values())


def products_by_node(network: CodedNetwork) -> dict[str, int]:
    """Return the products of activations and weights of one image, by the node that sums them.

    Those with the zeros of the padding are among them.
    """
    return {
        node.name: math.prod(network.layers[node.operation.layer].shape)
        * math.prod(network.shapes[node.name][1:])
        for node in network.nodes
        if isinstance(node.operation, (op.Convolution, op.Linear))
    }


def _infer_shapes(network: Network[LayerType]) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {network.input: network.input_shape}
    for node in network.nodes:
        for name in node.inputs:
            if name not in shapes:
                raise CaptureError(
                    "A node reads a value that no earlier node produces.",
                    where=node.name,
                    got=name,
                )
        if node.name in shapes:
            raise CaptureError("Two values of the graph share a name.", where=node.name)
        shapes[node.name] = _output_shape(node, [shapes[name] for name in node.inputs], network)
    for output in (network.output, *network.further_outputs):
        if output not in shapes:
            raise CaptureError("The network's output is produced by no node.", where=output)
    return shapes


def _weight_shape(network: Network[LayerType], node: Node, layer: str) -> Shape:
    if layer not in network.layers:
        raise CaptureError("A node names a layer that does not exist.", where=node.name, got=layer)
    found = network.layers[layer]
    return found.weight.shape if isinstance(found, SourceLayer) else found.shape


def _output_shape(node: Node, inputs: list[Shape], network: Network[LayerType]) -> Shape:
    """Return the shape of a node's value; raise `CaptureError` where its inputs do not fit."""
    _require_operands(node, len(inputs))
    operation, shape = node.operation, inputs[0]
    match operation:
        case op.Convolution():
            shape = _convolution_shape(node, operation, shape, network)
        case op.Linear():
            out, features = _weight_shape(network, node, operation.layer)
            _expect(node, shape, (features,))
            shape = (out,)
        case op.ScaleBias():
            for values in (operation.scale, operation.bias):
                if values.shape != (1,):
                    _expect(node, values.shape, (shape[0],))
        case op.Add() | op.Multiply():
            shape = _broadcast(node, *inputs)
        case op.Concat():
            place = operation.axis - 1
            if place >= len(shape):
                raise CaptureError(
                    "Tensors do not have this axis.",
                    where=node.name,
                    got=f"{operation.axis} of {len(shape)}",
                )
            for other in inputs[1:]:
                rest = (*other[:place], *other[place + 1 :])
                _expect(node, rest, (*shape[:place], *shape[place + 1 :]))
            shape = (*shape[:place], sum(other[place] for other in inputs), *shape[place + 1 :])
        case _:
            shape = _resized(node, shape)
    return shape


def _resized(node: Node, shape: Shape) -> Shape:
    """Return the output's shape of an operation that keeps the channels, or all of the shape."""
    operation = node.operation
    match operation:
        case op.Upsample():
            channels, height, width = shape
            shape = (channels, height * operation.scale[0], width * operation.scale[1])
        case op.MaxPool() | op.AveragePool():
            padding = operation.padding if isinstance(operation, op.MaxPool) else (0, 0)
            extent = _window_extent(node, shape[1:], operation.kernel, operation.stride, padding)
            shape = (shape[0], *extent)
        case op.GlobalAveragePool():
            shape = (shape[0], 1, 1)
        case op.Flatten():
            shape = (math.prod(shape),)
        case _ if isinstance(operation, op.SelfComputing):
            shape = _computed(node, operation, shape)
    return shape


@np.errstate(over="ignore")  # a constant that becomes infinite
def _computed(node: Node, operation: op.SelfComputing, shape: Shape) -> Shape:
    """Return the shape of what an operation makes of no images."""
    try:
        found = operation.compute(np.zeros((0, *shape), np.float32))  # type: ignore[call-arg]  # those of two inputs are not here
    except (ValueError, IndexError) as error:
        raise CaptureError(
            "An operation does not fit its input.", where=node.name, got=f"{shape}: {error}"
        ) from error
    return found.shape[1:]


def _broadcast(node: Node, first: Shape, second: Shape) -> Shape:
    if len(first) != len(second) or any(
        a != b and 1 not in (a, b) for a, b in zip(first, second, strict=False)
    ):
        _expect(node, second, first)
    return tuple(max(a, b) for a, b in zip(first, second, strict=True))


def _require_operands(node: Node, found: int) -> None:
    variable = isinstance(node.operation, op.Concat)
    expected = 2 if isinstance(node.operation, (op.Add, op.Multiply)) else 1
    if (variable and found < 1) or (not variable and found != expected):
        raise CaptureError(
            "An operation has the wrong number of inputs.",
            where=node.name,
            expected="at least one" if variable else str(expected),
            got=str(found),
        )


def _convolution_shape(
    node: Node, operation: op.Convolution, image: Shape, network: Network[LayerType]
) -> Shape:
    out, group_inputs, *kernel = _weight_shape(network, node, operation.layer)
    if len(image) != 3 or image[0] != group_inputs * operation.groups:  # noqa: PLR2004 - C, H, W
        raise CaptureError(
            "A convolution's input does not fit its weights.",
            where=node.name,
            expected=f"[{group_inputs * operation.groups}, height, width]",
            got=str(list(image)),
        )
    reach = tuple((k - 1) * gap + 1 for k, gap in zip(kernel, operation.dilation, strict=True))
    return (out, *_window_extent(node, image[1:], reach, operation.stride, operation.padding))


def _window_extent(
    node: Node, image: Shape, kernel: Shape, stride: op.Pair, padding: op.Pair
) -> Shape:
    extents = tuple(
        (extent + 2 * pad - window) // step + 1
        for extent, window, step, pad in zip(image, kernel, stride, padding, strict=True)
    )
    if min(extents) < 1:
        raise CaptureError(
            "A window is larger than its image.",
            where=node.name,
            expected=f"at least {list(kernel)}",
            got=str(list(image)),
        )
    return extents


def _expect(node: Node, got: Shape, expected: Shape) -> None:
    if tuple(got) != tuple(expected):
        raise CaptureError(
            "A tensor of the graph has the wrong shape.",
            where=node.name,
            expected=str(list(expected)),
            got=str(list(got)),
        )
