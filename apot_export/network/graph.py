"""The intermediate representation: a small graph of operations over named layers.

It knows numpy and no framework. A *source* network holds what training left (latent float weights
and clipping thresholds); a *coded* network holds integers: every weighted layer of it produces
unscaled sums, and an explicit `ScaleBias` after it carries step sizes, batch-norm and bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from apot_export.errors import CaptureError
from apot_export.network.layers import (
    ActivationQuantizer,
    CodedLayer,
    FloatLayer,
    Layer,
    PlaneLayer,
)
from apot_export.network.operations import (
    Add,
    AveragePool,
    Concat,
    Convolution,
    Flatten,
    GlobalAveragePool,
    Linear,
    MaxPool,
    Operation,
    Pair,
    ScaleBias,
    Upsample,
)
from apot_export.network.source import SourceLayer

Shape = tuple[int, ...]
LayerType = TypeVar("LayerType", bound=SourceLayer | CodedLayer | PlaneLayer | FloatLayer)


@dataclass(frozen=True, kw_only=True)
class Node:
    """One operation; its name is also the name of the value that it produces."""

    name: str
    inputs: tuple[str, ...]
    operation: Operation


@dataclass(frozen=True, kw_only=True, eq=False)
class Network(Generic[LayerType]):
    """Nodes in an order in which every input exists before it is used."""

    nodes: tuple[Node, ...]
    layers: Mapping[str, LayerType]
    input: str
    input_shape: Shape
    """One image: (channels, height, width)."""
    output: str
    shapes: Mapping[str, Shape] = field(init=False)
    """Shape of every value without the batch axis."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "shapes", _infer_shapes(self))

    def users(self, value: str) -> list[Node]:
        """Return the nodes that read a value."""
        return [node for node in self.nodes if value in node.inputs]

    def input_quantizer(self, layer: str) -> ActivationQuantizer:
        """Return the quantizer of a layer's input.

        Raises:
            TypeError: The layer's input stays float.
        """
        quantizer = self.layers[layer].activation
        if quantizer is None:
            raise TypeError(f"{layer} has no input quantizer")
        return quantizer


SourceNetwork = Network[SourceLayer]
CodedNetwork = Network[Layer]


def _infer_shapes(network: Network[LayerType]) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {network.input: network.input_shape}
    for node in network.nodes:
        inputs = []
        for name in node.inputs:
            if name not in shapes:
                raise CaptureError(
                    "A node reads a value that no earlier node produces.",
                    where=node.name,
                    got=name,
                )
            inputs.append(shapes[name])
        if node.name in shapes:
            raise CaptureError("Two values of the graph share a name.", where=node.name)
        shapes[node.name] = _output_shape(node, inputs, network)
    if network.output not in shapes:
        raise CaptureError("The network's output is produced by no node.", where=network.output)
    return shapes


def _weight_shape(network: Network[LayerType], node: Node, layer: str) -> Shape:
    if layer not in network.layers:
        raise CaptureError("A node names a layer that does not exist.", where=node.name, got=layer)
    found = network.layers[layer]
    return found.weight.shape if isinstance(found, SourceLayer) else found.shape


def _output_shape(node: Node, inputs: list[Shape], network: Network[LayerType]) -> Shape:
    operation = node.operation
    _require_operands(node, len(inputs))
    first = inputs[0]
    if isinstance(operation, Convolution):
        return _convolution_shape(node, operation, first, network)
    if isinstance(operation, Linear):
        out, features = _weight_shape(network, node, operation.layer)
        _expect(node, first, (features,))
        return (out,)
    if isinstance(operation, ScaleBias):
        for values in (operation.scale, operation.bias):
            if values.shape != (1,):
                _expect(node, values.shape, (first[0],))
    if isinstance(operation, Add):
        _expect(node, inputs[1], first)
    if isinstance(operation, Concat):
        for other in inputs[1:]:
            _expect(node, other[1:], first[1:])
        return (sum(shape[0] for shape in inputs), *first[1:])
    return _resized(node, first)


def _resized(node: Node, first: Shape) -> Shape:
    """Return the output's shape of an operation that keeps the channels, or all of the shape."""
    operation = node.operation
    shape = first
    if isinstance(operation, Upsample):
        channels, height, width = first
        shape = (channels, height * operation.scale[0], width * operation.scale[1])
    elif isinstance(operation, (MaxPool, AveragePool)):
        padding = operation.padding if isinstance(operation, MaxPool) else (0, 0)
        extent = _window_extent(node, first[1:], operation.kernel, operation.stride, padding)
        shape = (first[0], *extent)
    elif isinstance(operation, GlobalAveragePool):
        shape = (first[0], 1, 1)
    elif isinstance(operation, Flatten):
        shape = (int(np.prod(first, dtype=np.int64)),)
    return shape


def _require_operands(node: Node, found: int) -> None:
    variable = isinstance(node.operation, Concat)
    expected = 2 if isinstance(node.operation, Add) else 1
    if (variable and found < 1) or (not variable and found != expected):
        raise CaptureError(
            "An operation has the wrong number of inputs.",
            where=node.name,
            expected="at least one" if variable else str(expected),
            got=str(found),
        )


def _convolution_shape(
    node: Node, operation: Convolution, image: Shape, network: Network[LayerType]
) -> Shape:
    out, group_inputs, *kernel = _weight_shape(network, node, operation.layer)
    if len(image) != 3 or image[0] != group_inputs * operation.groups:  # noqa: PLR2004 - C, H, W
        raise CaptureError(
            "A convolution's input does not fit its weights.",
            where=node.name,
            expected=f"[{group_inputs * operation.groups}, height, width]",
            got=str(list(image)),
        )
    reach = tuple(
        (extent - 1) * dilation + 1
        for extent, dilation in zip(kernel, operation.dilation, strict=True)
    )
    return (out, *_window_extent(node, image[1:], reach, operation.stride, operation.padding))


def _window_extent(node: Node, image: Shape, kernel: Shape, stride: Pair, padding: Pair) -> Shape:
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
