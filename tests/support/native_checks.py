"""The oracle beside the kernels: from equal inputs every node gives equal numbers."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apot_export.network import (
    CodedLayer,
    CodedNetwork,
    Convolution,
    FloatLayer,
    Linear,
    Node,
    QuantizeActivation,
    oracle,
)
from apot_export.network.codebook import Codebook
from apot_export.runtimes.native import FastNetwork
from tests.support.random_coded_networks import INPUTS, SIGNED_INPUTS

Floats = NDArray[np.float32]
EPSILON = 2.0**-24
LARGEST_LEVEL = 255


def byte_levels() -> list[Codebook]:
    """Return the codebooks of inputs whose levels fit a byte."""
    return [book for book in INPUTS if book.levels.max() <= LARGEST_LEVEL]


def signed_byte_levels() -> list[Codebook]:
    """Return the same of levels that go below 0."""
    return [book for book in SIGNED_INPUTS if np.ptp(book.levels) <= LARGEST_LEVEL]


def differences(network: CodedNetwork, fast: FastNetwork, images: Floats) -> dict[str, int]:
    """Run both; return how many values of each kind were compared.

    Every node is computed by the oracle from what the kernels computed before it, sums of floats
    alone excepted: they are compared within the bound of their rounding, and taken over.
    """
    found: dict[str, NDArray[Any]] = {}
    logits = fast.run(images, found.__setitem__)
    np.testing.assert_array_equal(fast.run(images), logits, err_msg="observed and not")
    counts = {"levels": 0, "integer sums": 0, "float sums": 0, "floats": 0}
    values: dict[str, NDArray[Any]] = {network.input: images}
    with np.errstate(invalid="ignore"):
        for node in network.nodes:
            inputs = [values[name] for name in node.inputs]
            expected = oracle.compute(network, node, inputs)
            if node.name not in found:
                values[node.name] = expected
                continue
            kind = kind_of(network, node)
            counts[kind] += expected.size
            if kind == "float sums":
                error = np.abs(expected.astype(np.float64) - found[node.name])
                assert (error <= rounding_bound(network, node, inputs[0])).all(), node.name
                values[node.name] = found[node.name]
            else:
                np.testing.assert_array_equal(found[node.name], expected, err_msg=node.name)
                values[node.name] = expected
    np.testing.assert_array_equal(logits, values[network.output], err_msg="logits")
    return counts


def kind_of(network: CodedNetwork, node: Node) -> str:
    operation = node.operation
    if isinstance(operation, QuantizeActivation):
        return "levels"
    if not isinstance(operation, (Convolution, Linear)):
        return "floats"
    layer = network.layers[operation.layer]
    quantized = isinstance(layer, CodedLayer) and layer.activation is not None
    return "integer sums" if quantized else "float sums"


def rounding_bound(network: CodedNetwork, node: Node, image: NDArray[Any]) -> NDArray[Any]:
    """Bound how far sums of floats in any order lie from the sum rounded once."""
    assert isinstance(node.operation, (Convolution, Linear))
    layer = network.layers[node.operation.layer]
    weights = layer.levels() if isinstance(layer, CodedLayer) else layer.weights()
    magnitudes = np.abs(weights).astype(np.float32)
    layers = {layer.name: FloatLayer(name=layer.name, stored=magnitudes)}
    positive = dataclasses.replace(network, layers={**network.layers, **layers})
    sums = oracle.compute(positive, node, [np.abs(image)]).astype(np.float64)
    return (np.prod(layer.shape[1:]) + 2) * EPSILON * sums * 1.01
