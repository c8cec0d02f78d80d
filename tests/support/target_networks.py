"""Models for a target, and their values beside the oracle's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime

from apot_export.artifacts.onnx_model import build_model, serialise
from apot_export.artifacts.onnx_model.probe import integers_as_such, with_outputs
from apot_export.network import CodedNetwork, oracle
from apot_export.runtimes.onnx_runtime import open_session
from tests.support.onnx_networks import DISABLED, EVERYTHING, Floats, run_all


def model_for(
    net: CodedNetwork, target: str, lowerings: Mapping[str, str] | None = None
) -> onnx.ModelProto:
    return build_model(
        net,
        name="test",
        tool="test 1.2",
        metadata={"who": "test"},
        target=target,
        lowerings=lowerings,
    )


def sessions(model: onnx.ModelProto) -> Iterator[Any]:
    """Yield sessions of all values, as written and as ONNX Runtime optimises them."""
    for level in (DISABLED, EVERYTHING):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        yield onnxruntime.InferenceSession(
            with_outputs(model), options, providers=["CPUExecutionProvider"]
        )


def assert_every_value_is_the_oracles(
    net: CodedNetwork, target: str, images: Floats, lowerings: Mapping[str, str] | None = None
) -> int:
    """Compare every node given the session's own inputs to it; return how many integers."""
    compared = 0
    model = model_for(net, target, lowerings)
    onnx.checker.check_model(model, full_check=True)
    for session in sessions(model):
        values = integers_as_such(model, run_all(session, images))
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


def overloads(model: onnx.ModelProto) -> dict[str, str]:
    return {node.name: node.overload for node in model.graph.node if node.domain == "apot"}
