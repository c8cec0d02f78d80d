"""Levels below 0: how low a network's values can be where training let negative inputs pass."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from apot_export.network import CodedLayer, Layer, Node, SourceNetwork
from apot_export.network import operations as op
from apot_export.network.bounds import IMAGE_LIMIT
from apot_export.network.codebook import MAXIMUM_BITS, with_levels_below

_SLACK = 2.0**-10
"""Share of a range by which float rounding may exceed it; far more than any sum's."""

Ends = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Smallest and largest number of every channel."""


def with_negative_levels(source: SourceNetwork, layers: Mapping[str, Layer]) -> dict[str, Layer]:
    """Give the layers that let negative inputs pass the levels that their inputs can reach.

    Ranges are proven from the graph for images in [-8, 8]. An input beyond them takes the lowest
    level, which verification reports as a level that rounding does not explain.

    Args:
        source: The network as training left it.
        layers: Its encoded layers.
    """
    found = dict(layers)
    if not any(layer.passes_negative_inputs for layer in source.layers.values()):
        return found
    channels = source.input_shape[0]
    limit = np.full(channels, float(IMAGE_LIMIT))
    ranges: dict[str, Ends] = {source.input: (-limit, limit)}
    for node in source.nodes:
        inputs = [ranges[name] for name in node.inputs]
        if isinstance(node.operation, (op.Convolution, op.Linear)):
            name = node.operation.layer
            if source.layers[name].passes_negative_inputs:
                found[name] = _lowered(found[name], float(inputs[0][0].min()))
            ranges[node.name] = _of_sums(node.operation, source, found[name], *inputs[0])
        else:
            ranges[node.name] = _of_operation(source, node, inputs)
    return found


def _lowered(layer: Layer, lowest: float) -> Layer:
    """Return a layer whose quantizer has levels down to that of an input."""
    assert isinstance(layer, CodedLayer)
    assert layer.activation is not None
    quantizer = layer.activation
    level = lowest * (1 + _SLACK) / float(quantizer.alpha) * quantizer.input_steps
    reached = math.floor(max(-(2.0**MAXIMUM_BITS), level))
    codebook = with_levels_below(quantizer.codebook, reached)
    return dataclasses.replace(layer, activation=dataclasses.replace(quantizer, codebook=codebook))


def _of_sums(
    operation: op.Convolution | op.Linear,
    source: SourceNetwork,
    layer: Layer,
    low: NDArray[np.float64],
    high: NDArray[np.float64],
) -> Ends:
    """Return the range of a layer's results; zeros of a padding are within that of its input."""
    quantizer = layer.activation
    if quantizer is not None:
        steps = quantizer.input_steps / float(quantizer.alpha)
        low, high = (
            np.clip(np.sign(end) * (np.abs(end) * steps + 1), *quantizer.table[[0, -1]])
            * quantizer.step
            for end in (low, high)
        )
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    weights = layer.weights().astype(np.float64)
    rows = weights.reshape(*weights.shape[:2], -1)
    positive, negative = np.maximum(rows, 0).sum(axis=2), np.minimum(rows, 0).sum(axis=2)
    groups = operation.groups if isinstance(operation, op.Convolution) else 1
    group = np.arange(len(rows)) // (len(rows) // groups)
    low, high = low.reshape(groups, -1)[group], high.reshape(groups, -1)[group]
    bias = source.layers[layer.name].bias
    added = 0.0 if bias is None else bias.astype(np.float64)
    return (
        (positive * low + negative * high).sum(axis=1) + added,
        (positive * high + negative * low).sum(axis=1) + added,
    )


def _of_operation(source: SourceNetwork, node: Node, inputs: list[Ends]) -> Ends:
    """Return the range of what an operation makes of its inputs; pools and upsamplings keep it."""
    operation, (low, high) = node.operation, inputs[0]
    match operation:
        case op.ScaleBias():
            ends = [end * operation.scale + operation.bias for end in (low, high)]
            low, high = np.minimum(*ends), np.maximum(*ends)
        case op.Relu():
            low, high = np.maximum(low, 0), np.maximum(high, 0)
        case op.Clip():
            low, high = (np.clip(e, operation.minimum, operation.maximum) for e in (low, high))
        case op.Add():
            low, high = low + inputs[1][0], high + inputs[1][1]
        case op.Concat():
            low, high = map(np.concatenate, zip(*inputs, strict=True))
            if operation.axis != 1:
                channels = source.shapes[node.name][0]
                low, high = np.full(channels, low.min()), np.full(channels, high.max())
        case op.Flatten():
            places = math.prod(source.shapes[node.inputs[0]][1:])
            low, high = low.repeat(places), high.repeat(places)
        case _ if isinstance(operation, op.SelfComputing):
            low, high = _of_self_computing(source, node, operation, inputs)
    return low, high


def _of_self_computing(
    source: SourceNetwork, node: Node, operation: op.SelfComputing, inputs: list[Ends]
) -> Ends:
    """Return one range for all channels: operations may mix them."""
    ends = [(min(float(low.min()), 0.0), max(float(high.max()), 0.0)) for low, high in inputs]
    low, high = ends[0]
    if isinstance(operation, op.Multiply):
        products = [one * other for one in ends[0] for other in ends[-1]]
        low, high = min(products), max(products)
    elif isinstance(operation, op.Pad) and operation.value is not None:
        low, high = min(low, operation.value), max(high, operation.value)
    elif isinstance(operation, op.Resample):
        _, height, width = source.shapes[node.inputs[0]]
        gain = math.prod(
            float(np.abs(m).sum(axis=1).max()) for m in operation.matrices(height, width)
        )
        low, high = (low - high) * gain, (high - low) * gain
    elif isinstance(operation, op.Elementwise):
        low, high = _of_function(operation.function, low, high)
    channels = source.shapes[node.name][0]
    return np.full(channels, low), np.full(channels, high)


def _of_function(function: str, low: float, high: float) -> tuple[float, float]:
    """Return a range of a function's results; those that have no bound get the largest one."""
    limit = 2.0**64
    if function in ("reciprocal", "log"):
        return -limit, limit
    ends = np.array([low, high]) if function != "sqrt" else np.array([0.0, high])
    results = op.Elementwise(function=function).compute(ends.astype(np.float32))
    return float(min(results.min(), 0)), float(min(max(results.max(), 0), limit))
