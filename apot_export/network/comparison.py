"""Compare the values that a runtime computed with the oracle's, node by node.

The oracle is given the runtime's own inputs of each node, so that a difference of one value never
reaches the next. Levels and accumulators must be equal; floats may differ by float32 rounding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apot_export.network import (
    AveragePool,
    CodedLayer,
    CodedNetwork,
    Convolution,
    FloatLayer,
    GlobalAveragePool,
    Linear,
    Node,
    ScaleBias,
    oracle,
)
from apot_export.network.rounding import UNIT_ROUNDOFF

_ROUNDINGS = 4
"""Roundings of one value beyond those of its sum."""
_SHOWN = 5
_OUTPUT = "logits"
"""What the ONNX model calls the network's output."""


@dataclass(frozen=True, kw_only=True)
class AccumulatorComparison:
    """What a runtime and the oracle compute, node by node, from the same inputs."""

    images: int
    compared: int
    """Integers: levels and accumulators."""
    mismatches: int
    offenders: tuple[str, ...]
    values_compared: int = 0
    """Float values of the other nodes."""
    values_outside: int = 0
    """Of these, values further apart than float rounding allows."""


def compare_oracle(
    packed: CodedNetwork, images: NDArray[np.float32], exported: Mapping[str, NDArray[Any]]
) -> AccumulatorComparison:
    """Recompute every value of a network from the runtime's own inputs to it.

    Args:
        packed: The network of the packed file.
        images: float32 [N, C, H, W].
        exported: Every value of the ONNX graph on these images (or more), by name.
    """
    known: dict[str, NDArray[Any]] = {packed.input: images}
    for node in packed.nodes:
        name = _OUTPUT if node.name == packed.output else node.name
        if name in exported:
            known[node.name] = exported[name][: len(images)]
    integers, integers_differing, floats, floats_differing = 0, 0, 0, 0
    offenders = []
    for node in packed.nodes:
        inputs = [known[name] for name in node.inputs if name in known]
        if len(inputs) < len(node.inputs) or node.name not in known:
            offenders.append(f"{node.name}: no such value in the ONNX model")
            floats_differing += 1
            continue
        inputs = [
            value if value.dtype == np.float32 else value.astype(np.int64) for value in inputs
        ]
        expected = oracle.compute(packed, node, inputs)
        differing = _differing(packed, node, inputs, expected, known[node.name])
        if expected.dtype == np.float32:
            floats += expected.size
            floats_differing += differing
        else:
            integers += expected.size
            integers_differing += differing
        if differing:
            kind = "values" if expected.dtype == np.float32 else "integers"
            offenders.append(f"{node.name}: {differing} of {expected.size} {kind} differ")
    return AccumulatorComparison(
        images=len(images) if integers else 0,
        compared=integers,
        mismatches=integers_differing,
        values_compared=floats,
        values_outside=floats_differing,
        offenders=tuple(offenders[:_SHOWN]),
    )


def _differing(
    packed: CodedNetwork,
    node: Node,
    inputs: list[NDArray[Any]],
    expected: NDArray[Any],
    got: NDArray[Any],
) -> int:
    """Count the values that are not what the oracle says; all of them where the kinds differ."""
    if got.shape != expected.shape or (got.dtype == np.float32) != (expected.dtype == np.float32):
        return expected.size
    if expected.dtype != np.float32:
        return int((got != expected).sum())
    with np.errstate(invalid="ignore"):  # The difference of two infinities is no number.
        difference = np.abs(expected.astype(np.float64) - got)
        near = (difference <= _bound(packed, node, inputs)) | (got == expected)
    return int((~near).sum())


def _bound(packed: CodedNetwork, node: Node, inputs: list[NDArray[Any]]) -> NDArray[np.float64]:
    """Return how far two float32 evaluations of a node may be apart.

    The error of a sum grows with the sum of its absolute terms, which is what the same node makes
    of absolute values.
    """
    operation = node.operation
    taps = 0
    if isinstance(operation, ScaleBias):
        operation = ScaleBias(scale=np.abs(operation.scale), bias=np.abs(operation.bias))
    elif isinstance(operation, (AveragePool, GlobalAveragePool)):
        taps = inputs[0][0, 0].size
    elif isinstance(operation, (Convolution, Linear)):
        layer = packed.layers[operation.layer]
        weights = layer.levels() if isinstance(layer, CodedLayer) else layer.weights()
        absolute = FloatLayer(name=layer.name, weight=np.abs(weights).astype(np.float32))
        packed = dataclasses.replace(packed, layers={**packed.layers, layer.name: absolute})
        taps = weights[0].size
    node = dataclasses.replace(node, operation=operation)
    magnitude = oracle.compute(packed, node, [np.abs(value) for value in inputs])
    # Errors of real summations grow with the square root of their length.
    roundings = min(taps, 4 * taps**0.5) + _ROUNDINGS
    return np.asarray(2 * roundings * UNIT_ROUNDOFF * magnitude.astype(np.float64))
