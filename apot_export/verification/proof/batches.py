"""Proof that a model computes each image by itself, however many there are.

A run shows what happens in batches of a few sizes. That nothing else happens in others follows from
the graph: no operation reads how many images there are, and none mixes images or tells their places
in a batch apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, helper, inliner, numpy_helper

_SHAPES = ("Shape", "Size")
_WORDS = re.compile(r"\w+")
_OF_EACH_NUMBER = _WORDS.findall(
    "Abs And BitShift BitwiseAnd Cast Ceil Clip Div Equal Erf Exp Expand Floor Gather "
    "Add GatherElements Greater GreaterOrEqual Identity Less LessOrEqual Log Max Min Mod Mul Neg "
    "Not Or Pow Reciprocal Relu Reshape Round Sigmoid Sign Sqrt Sub Tanh Where"
)
"""Operators that may read images whose numbers are one row: they move none of them elsewhere."""
_ALONG_AXES = {"CumSum": 1, "ReduceMax": 1, "ReduceMean": 1, "ReduceSum": 1, "Slice": 3}
"""The input that says along which axes an operator works."""
_OF_EACH_IMAGE = _WORDS.findall(
    "AveragePool BatchNormalization Conv DequantizeLinear Gemm GlobalAveragePool MatMul "
    "MatMulInteger MatMulIntegerToFloat MaxPool QuantizeLinear Resize"
)
"""Others that keep images apart, whatever their attributes."""


def mixing_nodes(model: onnx.ModelProto) -> list[str]:
    """Return what a model has that lets images depend on each other, or on their number.

    Args:
        model: An ONNX model, functions included, whose first axis is that of the images.
    """
    return list(_Walk(inliner.inline_local_functions(model).graph).found())


class _Walk:
    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        constants = (node for node in graph.node if node.op_type == "Constant")
        self._constants = {
            **{tensor.name: tensor for tensor in graph.initializer},
            **{node.output[0]: node.attribute[0].t for node in constants},
        }
        self._images = {value.name for value in graph.input}
        """Values that depend on the images."""
        self._rows: set[str] = set()
        """Of these, those whose first axis is not that of the images."""
        self._shapes: set[str] = set()
        """Shapes of these."""

    def found(self) -> Iterator[str]:
        for node in self._graph.node:
            if any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for a in node.attribute):
                yield f"{node.name} ({node.op_type}) branches"
                continue
            shaped = [place for place, name in enumerate(node.input) if name in self._shapes]
            fine = node.op_type in ("Reshape", "Expand") and shaped == [1]
            # What is compared with itself is equal, whatever it is.
            fine |= node.op_type == "Equal" and len(set(node.input)) == 1
            if shaped and not fine:
                yield f"{node.name} ({node.op_type}) reads the number of images"
            if not self._images.isdisjoint(node.input):
                says = self._of_images(node)
                if says:
                    yield f"{node.name} ({node.op_type}) {says}"

    def _of_images(self, node: onnx.NodeProto) -> str | None:
        """Follow a node that reads images; say what is wrong with it."""
        if node.op_type in _SHAPES:
            self._shapes.update(node.output)
            return None
        self._images.update(node.output)
        if node.op_type == "Reshape":
            if not self._keeps_images(node):
                self._rows.update(node.output)
            return None
        if not self._rows.isdisjoint(node.input):
            self._rows.update(node.output)
            return None if node.op_type in _OF_EACH_NUMBER else "mixes images"
        return None if self._is_of_each_image(node) else "mixes images, or places in a batch"

    def _keeps_images(self, node: onnx.NodeProto) -> bool:
        """Tell whether a reshape leaves the first axis alone."""
        if node.input[1] in self._shapes:
            return True
        shape = self._integers(node, 1)
        free = [place for place, extent in enumerate(shape) if extent == -1]
        return len(shape) > 1 and (shape[0] == 0 or free == [0])

    def _is_of_each_image(self, node: onnx.NodeProto) -> bool:
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        kind = node.op_type
        if kind in _ALONG_AXES:
            axes = attributes.get("axes", self._integers(node, _ALONG_AXES[kind]))
            return len(axes) > 0 and min(axes) > 0
        if kind == "Transpose":
            return bool(attributes.get("perm", [1])[0] == 0)
        if kind == "Pad":
            widths = self._integers(node, 1)
            return len(widths) > 0 and widths[0] == widths[len(widths) // 2] == 0
        if kind in ("Concat", "Split", "Gather", "GatherElements", "Flatten"):
            wanted = 1 if kind == "Flatten" else 0
            is_index = node.input[0] not in self._images
            return is_index or attributes.get("axis", wanted) > 0
        return kind in _OF_EACH_NUMBER or kind in _OF_EACH_IMAGE

    def _integers(self, node: onnx.NodeProto, place: int) -> NDArray[Any]:
        """Return a constant input of a node; none where it is not constant."""
        name = node.input[place] if place < len(node.input) else ""
        tensor = self._constants.get(name)
        if tensor is None or tensor.data_type != onnx.TensorProto.INT64:
            return np.zeros(0, np.int64)
        return numpy_helper.to_array(tensor).reshape(-1)
