"""Bodies of `apot` operators: complete text, standard operators, each of its own name."""

from __future__ import annotations

import re
from importlib import resources

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from apot_export.artifacts.onnx_model import DOMAIN, OPSET
from apot_export.artifacts.onnx_model.functions import function

FOLDER = resources.files("apot_export.artifacts.onnx_model") / "functions"
NAMES = [
    name
    for file in sorted(FOLDER.iterdir(), key=lambda file: file.name)
    for name in re.findall(r"^\w+", file.read_text(encoding="utf-8"), re.MULTILINE)
]


def test_no_body_stands_twice() -> None:
    assert len(NAMES) == len(set(NAMES)) > 30


@pytest.mark.parametrize("name", NAMES)
def test_every_body_is_of_standard_operators(name: str) -> None:
    body = function(name)
    assert (body.domain, body.name, body.overload) == (DOMAIN, name, "")
    assert {node.domain for node in body.node} == {""}
    made = {name for node in body.node for name in node.output}
    assert set(body.output) <= made
    assert not set(body.input) & made


@pytest.mark.parametrize("bits", [0, 1, 3])
def test_threshold_search_counts_thresholds_of_each_channel(bits: int) -> None:
    count = (1 << bits) - 1
    rng = np.random.default_rng(bits)
    thresholds = np.sort(rng.integers(-9, 9, (2, count)), axis=1)
    direction = np.array([[1], [-1]])
    x = rng.integers(-12, 12, (2, 40))
    bases = np.array([[0], [count]])
    levels = np.arange(count + 1) * 10
    expected = 10 * (thresholds[:, None, :] <= (x * direction)[:, :, None]).sum(axis=2)
    inputs = {
        "x": x,
        "direction": direction,
        "thresholds": np.append(thresholds, 0),  # no input of an operator is empty
        "bases": bases,
        "levels": levels,
    }
    types = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, value.shape)
        for name, value in inputs.items()
    ]
    result = onnx.helper.make_tensor_value_info("quantized", onnx.TensorProto.INT64, x.shape)
    body = function(f"ThresholdQuantize_bits{bits}")
    graph = onnx.helper.make_graph(list(body.node), "search", types, [result])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)])
    (quantized,) = ReferenceEvaluator(model).run(None, inputs)
    np.testing.assert_array_equal(quantized, expected)
