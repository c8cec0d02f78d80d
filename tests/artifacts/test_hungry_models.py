"""ONNX models that declare, or would compute, much larger values than files of their size may."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import apot_export
from apot_export.artifacts.onnx_model import build_integer_model, build_model, serialise
from apot_export.artifacts.onnx_model.lowering import TARGETS
from apot_export.artifacts.onnx_model.probe import parse_modest_model
from apot_export.errors import ExportError
from apot_export.integer import lower
from apot_export.network import CodedNetwork
from tests.support.networks import every_operation
from tests.support.random_coded_networks import plane_network

SHAPE = (1, 8, 8)
IMAGE = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 8, 8])


def model(node: onnx.NodeProto, shape: list[int], function: bool) -> bytes:
    """Return a model of a node that reads a constant, inside a function or in the graph."""
    constant = numpy_helper.from_array(np.array(shape, np.int64), "shape")
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("apot", 1)]
    nodes, functions = [node], []
    if function:
        body = helper.make_node("Constant", [], ["shape"], value=constant)
        functions = [
            helper.make_function("apot", "Hungry", ["image"], ["y"], [body, node], opsets[:1])
        ]
        nodes = [helper.make_node("Hungry", ["image"], ["y"], domain="apot")]
    graph = helper.make_graph(nodes, "graph", [IMAGE], [output], [] if function else [constant])
    made = helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=8)
    return bytes(made.SerializeToString())


@pytest.mark.parametrize("function", [False, True])
@pytest.mark.parametrize(
    ("node", "shape"),
    [
        (helper.make_node("ConstantOfShape", ["shape"], ["y"]), [1 << 20, 1 << 20]),
        (helper.make_node("Tile", ["image", "shape"], ["y"]), [1, 1, 1 << 15, 1 << 15]),
        (helper.make_node("Pad", ["image", "shape"], ["y"]), [0, 0, 0, 0, 0, 0, 1 << 15, 1 << 15]),
    ],
    ids=["ConstantOfShape", "Tile", "Pad"],
)
def test_a_value_that_is_too_large(node: onnx.NodeProto, shape: list[int], function: bool) -> None:
    data = model(node, shape, function)
    with pytest.raises(ExportError, match="numbers of an image's values") as caught:
        parse_modest_model(data, SHAPE, "model.onnx")
    assert str(caught.value.where).startswith("model.onnx: ")
    with apot_export.max_memory(1 << 45):
        parse_modest_model(data, SHAPE, "model.onnx")


def computed(nodes: str, **constants: list[int]) -> bytes:
    """Return a model of nodes that read the image and constants: "a = Add image b; y = Neg a"."""
    made = []
    for node in nodes.split("; "):
        output, _, kind, *inputs = node.split()
        made.append(helper.make_node(kind, inputs, [output]))
        if kind == "Cast":
            made[-1].attribute.append(helper.make_attribute("to", TensorProto.INT64))
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    lies = [helper.make_tensor_value_info(node.output[0], 1, [1]) for node in made[:-1]]
    tensors = [
        numpy_helper.from_array(np.array(value, np.int64), name)
        for name, value in constants.items()
    ]
    graph = helper.make_graph(made, "graph", [IMAGE], [output], tensors, value_info=lies)
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("nodes", "constants", "why"),
    [
        (
            "sum = ReduceSum image; flat = Reshape sum one; size = Cast flat; "
            "y = ConstantOfShape size",
            {"one": [1]},
            "a result of ConstantOfShape",
        ),
        ("used = Slice image from to; y = NonZero used", {"from": [0], "to": [1]}, "of NonZero"),
        (
            "shape = Shape image; size = Mul shape many; y = Expand image size",
            {"many": [1 << 10, 1, 1 << 10, 1 << 10]},
            "a result of Expand",
        ),
        (
            "flat = Reshape numbers column; sum = ReduceSum image; s = Reshape sum one; "
            "end = Cast s; used = Slice flat zero end; row = Slice numbers zero end; "
            "y = Mul used row",
            {"numbers": [1] * 100_000, "column": [-1, 1], "zero": [0], "one": [1]},
            "numbers of an image's values",
        ),
    ],
    ids=["of what it computes", "of zeros", "of the image's size", "of two cut values"],
)
def test_a_size_that_is_computed(nodes: str, constants: dict[str, list[int]], why: str) -> None:
    with pytest.raises(ExportError) as caught:
        parse_modest_model(computed(nodes, **constants), SHAPE, "model.onnx")
    assert why in str(caught.value)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("network", [every_operation, plane_network], ids=["codes", "planes"])
def test_models_of_every_target_are_modest(
    network: Callable[[], CodedNetwork], target: str
) -> None:
    coded = network()
    model = build_model(coded, name="a", tool="", metadata={}, target=target)
    parse_modest_model(serialise(model), coded.input_shape, "model.onnx")


@pytest.mark.parametrize("plain", [False, True])
def test_integer_models_are_modest(plain: bool) -> None:
    coded = plane_network()
    network = lower(coded, fraction_bits=8)
    model = build_integer_model(
        coded, network, name="a", tool="", metadata={}, plain=plain, batch=0, opset=0
    )
    parse_modest_model(serialise(model), coded.input_shape, "model.onnx")
