"""The model as OpenVINO reads it: no functions, weights decoded, integers left as floats.

OpenVINO knows no model-local functions, looks for 8-bit layers before it folds the decoding of
weights, and computes every conversion that it is given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx
import onnx.inliner
from onnx import TensorProto, helper, numpy_helper

from apot_export.network.bitpack import unpack

_DECODER = "DecodeWeights"


def openvino_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an equal model of standard operators that OpenVINO runs fast.

    Weights are integer initializers instead of packed codes. Accumulators that nobody reads but
    their scaling stay whole numbers in float32: conversions to int32 and back are left out, which
    changes no value.

    Args:
        model: A model of `build_model`, of any target; it stays as it is.
    """
    decoded = onnx.ModelProto()
    decoded.CopyFrom(model)
    _decode_weights(decoded.graph)
    inlined: onnx.ModelProto = onnx.inliner.inline_local_functions(decoded)
    _skip_conversions(inlined.graph)
    return inlined


def _decode_weights(graph: onnx.GraphProto) -> None:
    """Put integer weights in the place of the nodes that decode them."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    decoders = [node for node in graph.node if node.op_type == _DECODER]
    others = [node for node in graph.node if node.op_type != _DECODER]
    for node in decoders:
        packed, _, _, _, table, shape = (
            numpy_helper.to_array(tensors[name]) for name in node.input
        )
        (bits,) = (item.i for item in node.attribute if item.name == "bits")
        count = math.prod(shape.tolist())
        codes = unpack(packed[: -(-count * bits // 8)], bits, count)
        weights = table[codes].reshape(shape)
        tensors[node.output[0]] = numpy_helper.from_array(weights, node.output[0])
    read = {name for node in others for name in node.input}
    del graph.node[:], graph.initializer[:]
    graph.node.extend(others)
    graph.initializer.extend(tensor for name, tensor in tensors.items() if name in read)


def _skip_conversions(graph: onnx.GraphProto) -> None:
    """Let readers of float(int32(sums)) read the sums, whole numbers, unless someone reads int32.

    Only 8-bit kernels scale what they have summed. Between a float convolution and its scale the
    conversion stays: the runtime would multiply the weights instead, and sum what is not whole.
    """
    producers = {name: node for node in graph.node for name in node.output}
    asked_for = {value.name for value in graph.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    sums_of: dict[str, str] = {}
    for node in graph.node:
        source = producers.get(node.input[0]) if _converts(node, TensorProto.INT32) else None
        if source is None or not _sums_bytes(source, producers):
            continue
        users = readers.get(node.output[0], [])
        names = {node.output[0], *(user.output[0] for user in users)}
        if not names & asked_for and all(_converts(user, TensorProto.FLOAT) for user in users):
            sums_of |= dict.fromkeys(names, node.input[0])
    kept = [node for node in graph.node if node.output[0] not in sums_of]
    for node in kept:
        for place, name in enumerate(node.input):
            node.input[place] = sums_of.get(name, name)
    shapes = [value for value in graph.value_info if value.name not in sums_of]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(kept)
    graph.value_info.extend(shapes)


def _sums_bytes(node: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto]) -> bool:
    if node.op_type not in ("Conv", "Gemm"):
        return False
    weights = producers.get(node.input[1])
    return weights is not None and weights.op_type == "DequantizeLinear"


def _converts(node: onnx.NodeProto, kind: int) -> bool:
    return node.op_type == "Cast" and helper.get_attribute_value(node.attribute[0]) == kind


def model_for_openvino(model: bytes) -> bytes:
    """Serialise what `openvino_model` makes of a serialised model."""
    return bytes(openvino_model(onnx.load_model_from_string(model)).SerializeToString())
