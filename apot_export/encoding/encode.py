"""From a source network of floats to a coded network of integers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from apot_export.encoding._ranges import with_negative_levels
from apot_export.encoding.weights import encode_layer
from apot_export.network import (
    CodedLayer,
    CodedNetwork,
    Layer,
    Network,
    Node,
    SourceNetwork,
)
from apot_export.network import operations as op
from apot_export.original.checkpoint import require_finite

if TYPE_CHECKING:
    from numpy.typing import NDArray


def encode_network(source: SourceNetwork, *, alpha_terms: int = 0) -> CodedNetwork:
    """Encode every layer and make quantization and scaling explicit nodes.

    Args:
        source: The network as training left it.
        alpha_terms: Powers of two that each coordinate of multi-bit weights becomes the sum of; 0
            to keep the coordinates as they are.

    Raises:
        WeightError: A layer has weights or thresholds that cannot be quantized.
        CodebookError: A layer's integers do not fit a code.
    """
    encoded = {
        name: encode_layer(layer, alpha_terms=alpha_terms) for name, layer in source.layers.items()
    }
    layers = with_negative_levels(source, encoded)
    nodes: list[Node] = []
    done: set[str] = set()
    for node in source.nodes:
        operation, inputs = node.operation, node.inputs
        if node.name in done:
            continue  # a batch-norm that is part of the layer before it
        if isinstance(operation, (op.Convolution, op.Linear)):
            if source.layers[operation.layer].activation is not None:
                levels = f"{node.name}.levels"
                quantize = op.QuantizeActivation(layer=operation.layer)
                nodes.append(Node(name=levels, inputs=inputs, operation=quantize))
                inputs = (levels,)
            sums = f"{node.name}.sums"
            nodes.append(Node(name=sums, inputs=inputs, operation=operation))
            scale_node = _scale_node(source, node, layers[operation.layer], sums)
            nodes.append(scale_node)
            done.add(scale_node.name)
            continue
        if isinstance(operation, op.ScaleBias):
            operation = _as_float32(node.name, operation)
        nodes.append(Node(name=node.name, inputs=inputs, operation=operation))
    return Network[Layer](
        nodes=tuple(nodes),
        layers=layers,
        input=source.input,
        input_shape=source.input_shape,
        output=source.output,
        further_outputs=source.further_outputs,
    )


def _scale_node(source: SourceNetwork, node: Node, layer: Layer, sums: str) -> Node:
    """Return the node that applies step, bias and a batch-norm behind them to a layer's sums."""
    source_layer = source.layers[layer.name]
    channels = source_layer.weight.shape[0]
    step = layer.step if isinstance(layer, CodedLayer) else 1.0
    if source_layer.activation is not None:
        step *= source_layer.activation.step
    scale = np.full(channels, step, dtype=np.float64)
    if isinstance(layer, CodedLayer) and layer.scales is not None:
        scale *= layer.scales
    bias = np.zeros(channels, dtype=np.float64)
    if source_layer.bias is not None:
        require_finite({f"{layer.name}.bias": source_layer.bias})
        bias = source_layer.bias.astype(np.float64)
    name, users = node.name, source.users(node.name)
    if len(users) == 1 and node.name not in (source.output, *source.further_outputs):
        batch_norm = users[0].operation
        if isinstance(batch_norm, op.ScaleBias):
            name = users[0].name
            scale = scale * batch_norm.scale
            bias = bias * batch_norm.scale + batch_norm.bias
    merged = _as_float32(name, op.ScaleBias(scale=scale, bias=bias))
    return Node(name=name, inputs=(sums,), operation=merged)


def _as_float32(name: str, operation: op.ScaleBias) -> op.ScaleBias:
    with np.errstate(over="ignore"):
        scale = operation.scale.astype(np.float32)
        bias = operation.bias.astype(np.float32)
    require_finite({f"{name}: scale": scale, f"{name}: bias": bias})
    return op.ScaleBias(scale=_shortest(scale), bias=_shortest(bias))


def _shortest(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return one value where all are the same: a bare step needs no channel axis."""
    return values[:1] if (values.view(np.uint32) == values.view(np.uint32)[0]).all() else values
