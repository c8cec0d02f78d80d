"""Large batches a few images at a time: the network as the body of a loop over its images.

ONNX Runtime computes a node for a whole batch before the next node. Beyond a few images the values
between nodes leave the processor's caches, which slows integer products most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from apot_export.artifacts.onnx_model._builder import serialise
from apot_export.artifacts.onnx_model.lowering import CPU, fits_bytes
from apot_export.network import CodedLayer, CodedNetwork

_NUMBERS = 1_700_000
"""Of a network's largest value, at once: 2 images of 112 x 112 x 64 numbers measured best."""
_FEW = 16
"""Where more images than these go at once, batches are seldom larger: there is no loop."""
_BATCH, _BLOCK = "batch", "block"
"""Names of the first extent of values: of all images, and of those at once."""
_PREFIX = "blocks/"
"""Of the names of what the loop adds, and of a block's images and outputs."""
_IMAGES = f"{_PREFIX}images_at_once"


def images_at_once(network: CodedNetwork, target: str) -> int:
    """Return how many images of a batch a model's file computes at once; 0 for all of them.

    Outputs are vectors: every block copies those of the blocks before it.
    """
    outputs = (network.output, *network.further_outputs)
    vectors = all(len(network.shapes[name]) == 1 for name in outputs)
    images = max(1, _NUMBERS // max(math.prod(shape) for shape in network.shapes.values()))
    return images if target == CPU and vectors and images <= _FEW else 0


def gains_on_cpus(network: CodedNetwork) -> bool:
    """Return whether target "cpu" is measurably faster than "portable" in ONNX Runtime on CPUs.

    Twice as fast with images of 224 x 224; with those of 32 x 32 neither is ahead.
    """
    coded = [layer for layer in network.layers.values() if isinstance(layer, CodedLayer)]
    quantized = [layer for layer in coded if layer.activation is not None]
    return bool(images_at_once(network, CPU) and quantized) and all(map(fits_bytes, quantized))


def model_file(model: onnx.ModelProto, network: CodedNetwork, target: str) -> bytes:
    """Serialise a network's model as it is written: for ONNX Runtime on CPUs in blocks of images.

    Args:
        model: A model of `build_model`.
        network: The network.
        target: What the model was built for.
    """
    return serialise(in_blocks(model, images_at_once(network, target)))


def in_blocks(model: onnx.ModelProto, images: int) -> onnx.ModelProto:
    """Return a model that computes some images of a batch at a time; the last ones may be fewer.

    Nodes that read no image stay where they are, so that runtimes fold them.

    Args:
        model: A model of `build_model`; it is not changed.
        images: How many, 1 or more; 0 for the model itself.
    """
    if not images:
        return model
    graph, (given,) = model.graph, model.graph.input
    each = {given.name}
    for node in graph.node:
        if not each.isdisjoint(node.input):
            each.update(node.output)
    outputs = [value.name for value in graph.output]
    renamed = {name: f"{_PREFIX}{name}" for name in (given.name, *outputs)}
    values = (given, *graph.output, *graph.value_info)
    body = _body(
        given.name,
        graph.output,
        [_renamed(node, renamed) for node in graph.node if not each.isdisjoint(node.output)],
        [_sized(value, _BLOCK, renamed) for value in values if value.name in each],
    )
    counts = [
        _node("Shape", [given.name], "shape", start=0, end=1),
        _node("Add", [f"{_PREFIX}shape", f"{_PREFIX}rounding"], "rounded"),
        _node("Div", [f"{_PREFIX}rounded", _IMAGES], "quotient"),
        _node("Squeeze", [f"{_PREFIX}quotient"], "blocks"),
    ]
    loop = _node(
        "Loop", [f"{_PREFIX}blocks", "", *(f"{_PREFIX}{name}/none" for name in outputs)], body=body
    )
    loop.output.extend(outputs)
    once = [node for node in graph.node if each.isdisjoint(node.output)]
    return _with_graph(
        model,
        [*once, *counts, loop],
        [*graph.initializer, *_constants(images, graph.output)],
        [value for value in graph.value_info if value.name not in each],
    )


def _body(
    images: str,
    outputs: Sequence[onnx.ValueInfoProto],
    nodes: Sequence[onnx.NodeProto],
    values: Sequence[onnx.ValueInfoProto],
) -> onnx.GraphProto:
    """Return the body of the loop: take a block, compute it, join its outputs to those before."""
    cut = [
        _node("Mul", [f"{_PREFIX}number", _IMAGES], "start"),
        _node("Add", [f"{_PREFIX}start", _IMAGES], "end"),
        _node("Slice", [images, f"{_PREFIX}start", f"{_PREFIX}end"], images),
    ]
    joined, before, after = [], [], []
    for value in outputs:
        name = f"{value.name}/before"
        ends = [f"{_PREFIX}{name}", f"{_PREFIX}{value.name}"]
        joined.append(_node("Concat", ends, f"{value.name}/after", axis=0))
        kept = _sized(value, "", {value.name: ends[0]})
        before.append(kept)
        after.append(_sized(kept, "", {ends[0]: joined[-1].output[0]}))
    goes_on = helper.make_tensor_value_info(f"{_PREFIX}goes_on", TensorProto.BOOL, [])
    still = helper.make_tensor_value_info(f"{_PREFIX}still", TensorProto.BOOL, [])
    number = helper.make_tensor_value_info(f"{_PREFIX}number", TensorProto.INT64, [])
    asked = _node("Identity", [goes_on.name], "still")
    return helper.make_graph(
        [*cut, *nodes, *joined, asked],
        f"{_PREFIX}body",
        [number, goes_on, *before],
        [still, *after],
        value_info=values,
    )


def without_blocks(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model of which `in_blocks` made a model; any other model as it is.

    Whoever looks into a file so sees the network's nodes and values. Nothing is taken away but a
    loop that `in_blocks` makes of what is left.
    """
    graph = model.graph
    sizes = [tensor for tensor in graph.initializer if tensor.name == _IMAGES]
    bodies = [node.attribute[0].g for node in graph.node if node.op_type == "Loop"]
    if len(sizes) != 1 or len(bodies) != 1 or len(graph.input) != 1:
        return model
    ends = (*graph.input, *graph.output)
    renamed = {f"{_PREFIX}{value.name}": value.name for value in ends}
    nodes = [_renamed(node, renamed) for node in (*graph.node, *bodies[0].node)]
    described = [value for value in bodies[0].value_info if value.name not in renamed]
    plain = _with_graph(
        model,
        [node for node in nodes if not node.name.startswith(_PREFIX)],
        [tensor for tensor in graph.initializer if not tensor.name.startswith(_PREFIX)],
        [*graph.value_info, *[_sized(v, _BATCH, {}) for v in described]],
    )
    images = int(numpy_helper.to_array(sizes[0]).item())
    return plain if images > 0 and in_blocks(plain, images) == model else model


def _with_graph(
    model: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    initializers: Sequence[onnx.TensorProto],
    values: Sequence[onnx.ValueInfoProto],
) -> onnx.ModelProto:
    """Return a model with other nodes, initializers and descriptions of values."""
    ends = (model.graph.input, model.graph.output)
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    changed.graph.CopyFrom(
        helper.make_graph(nodes, model.graph.name, *ends, initializers, value_info=values)
    )
    return changed


def _constants(images: int, outputs: Sequence[onnx.ValueInfoProto]) -> list[onnx.TensorProto]:
    arrays = {_IMAGES: np.array([images]), f"{_PREFIX}rounding": np.array([images - 1])}
    for value in outputs:
        extents = [extent.dim_value for extent in value.type.tensor_type.shape.dim[1:]]
        arrays[f"{_PREFIX}{value.name}/none"] = np.zeros((0, *extents), dtype=np.float32)
    return [numpy_helper.from_array(array, name) for name, array in arrays.items()]


def _node(operator: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> Any:
    """Return a node of the loop; without an output, one that is still to get its outputs."""
    outputs = [f"{_PREFIX}{output}"] * bool(output)
    name = f"{_PREFIX}{output or operator}/node"
    return helper.make_node(operator, inputs, outputs, name=name, **attributes)


def _renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [names.get(name, name) for name in node.input]
    copy.output[:] = [names.get(name, name) for name in node.output]
    return copy


def _sized(
    value: onnx.ValueInfoProto, images: str, names: Mapping[str, str]
) -> onnx.ValueInfoProto:
    """Return a value's description with another name of its first extent, and of the value."""
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(value)
    copy.name = names.get(value.name, value.name)
    extent = copy.type.tensor_type.shape.dim[0]
    extent.Clear()
    if images:
        extent.dim_param = images
    return copy
