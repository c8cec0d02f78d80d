"""ONNX models that declare, or would compute, much larger values than files of their size may."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import apot_export
from apot_export.artifacts.onnx_model.probe import parse_modest_model
from apot_export.errors import ExportError

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
        parse_modest_model(data, "model.onnx")
    assert str(caught.value.where).startswith("model.onnx: ")
    with apot_export.max_memory(1 << 45):
        parse_modest_model(data, "model.onnx")
