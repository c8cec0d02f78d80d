"""Values of ONNX models on ONNX Runtime, compared with the oracle's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from apot_export.artifacts.onnx_model import build_model, serialise
from apot_export.artifacts.onnx_model.functions import body_of
from apot_export.artifacts.onnx_model.probe import integers_as_such, with_outputs
from apot_export.network import (
    CodedLayer,
    CodedNetwork,
    Convolution,
    Linear,
    QuantizeActivation,
    oracle,
)
from apot_export.network.codebook import Codebook, apot, uniform
from apot_export.runtimes.onnx_runtime import open_session
from tests.support.networks import Floats

DISABLED = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
EVERYTHING = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
WEIGHT_BOOKS = [
    *(apot(bits, signed=True) for bits in range(2, 7)),
    *(uniform(bits, signed=True) for bits in range(1, 16)),
    *(uniform(bits, signed=False) for bits in (1, 7, 16)),
    Codebook(tables=((0, 1, -4, 16), (0, -2)), denominator=17, signed=False),
]
"""Codebooks of every width from 1 to 16 bits."""


def model_of(network: CodedNetwork, target: str = "portable") -> onnx.ModelProto:
    return build_model(
        network,
        name="test",
        tool="test 1.2",
        metadata={"who": "test"},
        target=target,
    )


def sessions(model: onnx.ModelProto, threads: tuple[int, ...] = (0,)) -> Iterator[Any]:
    """Yield sessions of all values, as written and as ONNX Runtime optimises them.

    0 threads stand for ONNX Runtime's default.
    """
    content = with_outputs(model)
    for level in (DISABLED, EVERYTHING):
        for count in threads:
            options = onnxruntime.SessionOptions()
            options.graph_optimization_level = level
            options.intra_op_num_threads = count
            yield onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run_all(session: Any, images: Floats) -> dict[str, NDArray[Any]]:
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": images}), strict=True))


def assert_integers_are_the_oracles(network: CodedNetwork, images: Floats) -> int:
    """Compare every quantizer and accumulator, given the same inputs; return how many."""
    compared = 0
    for session in sessions(model_of(network), threads=(1, 2)):
        values = run_all(session, images)
        values[network.input] = images
        for node in network.nodes:
            operation = node.operation
            if not isinstance(operation, (QuantizeActivation, Convolution, Linear)):
                continue
            layer = network.layers[operation.layer]
            if not isinstance(layer, CodedLayer) or layer.activation is None:
                continue
            source = values[node.inputs[0]]
            if not isinstance(operation, QuantizeActivation):
                source = source.astype(np.int64)
                assert values[node.name].dtype == np.int32
            expected = oracle.compute(network, node, [source])
            np.testing.assert_array_equal(values[node.name], expected, err_msg=node.name)
            compared += expected.size
    return compared


def assert_every_value_is_the_oracles(net: CodedNetwork, target: str, images: Floats) -> int:
    """Compare every node given the session's own inputs to it; return how many integers."""
    compared = 0
    model = model_of(net, target)
    onnx.checker.check_model(model, full_check=True)
    for session in sessions(model):
        values = integers_as_such(net, run_all(session, images))
        values[net.input] = images
        values[net.output] = values["logits"]
        for node in net.nodes:
            sources = [values[name] for name in node.inputs]
            whole = [s if s.dtype == np.float32 else s.astype(np.int64) for s in sources]
            expected = oracle.compute(net, node, whole)
            found = values[node.name]
            if expected.dtype == np.float32:
                assert found.dtype == np.float32
                np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4, err_msg=node.name)
            else:
                assert found.dtype != np.float32
                np.testing.assert_array_equal(found, expected, err_msg=node.name)
                compared += expected.size
    plain = open_session(serialise(model), "cpu").run(images)
    np.testing.assert_allclose(plain, oracle.run(net, images), rtol=1e-4, atol=1e-3)
    return compared


def bodies(model: onnx.ModelProto) -> dict[str, str]:
    return {node.name: body_of(node) for node in model.graph.node if node.domain == "apot"}
