"""The model as OpenVINO reads it: no functions, weights decoded, integers left as floats.

OpenVINO does not read model-local functions, looks for 8-bit layers before it folds the decoding of
weights, and computes every conversion that it is given.
"""

from __future__ import annotations

import math

import onnx
from onnx import TensorProto, helper, numpy_helper

from apot_export.artifacts.onnx_model.blocks import without_blocks
from apot_export.artifacts.onnx_model.functions import EIGHT_BITS, body_of, operator_of
from apot_export.artifacts.onnx_model.inlining import inlined
from apot_export.network.bitpack import unpack

_FLOAT_SUMS = "_float"
"""Ending of the functions `EIGHT_BITS` whose sums stay float32."""


def openvino_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an equal model of standard operators that OpenVINO runs fast.

    Weights are integer initializers instead of packed codes. Accumulators of 8-bit kernels stay
    whole numbers in float32 where only `ScaleBias` reads them, which changes no value. Compile
    it with INFERENCE_PRECISION_HINT f32: bfloat16, the default of some processors, rounds them.

    Args:
        model: A model of `build_model`, of any target; it is not changed.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    _decode_weights(changed.graph)
    _leave_sums_float(changed)
    return inlined(changed)


def _decode_weights(graph: onnx.GraphProto) -> None:
    """Replace the nodes that decode integer weights by their results."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "DecodeWeights"]:
        packed, _, _, _, table, shape = (
            numpy_helper.to_array(tensors[name]) for name in node.input
        )
        bits = helper.get_node_attr_value(node, "bits")
        count = math.prod(shape.tolist())
        codes = unpack(packed[: -(-count * bits // 8)], bits, count)
        weights = table[codes].reshape(shape)
        tensors[node.output[0]] = numpy_helper.from_array(weights, node.output[0])
        graph.node.remove(node)
    del graph.initializer[:]
    graph.initializer.extend(tensors.values())


def _leave_sums_float(model: onnx.ModelProto) -> None:
    """Leave out the conversion of sums to int32 where `ScaleBias` converts them back.

    Between a float convolution and its scale the conversion stays: the runtime would multiply the
    weights instead, and sum what is not whole. It stays in front of a bias of zeros, too: OpenVINO
    2026.4 removes that addition, fuses the convolution with the addition of a residual instead,
    and, where both operands come from the convolution and the batch is of any size, scales twice.
    """
    graph = model.graph
    zeros = {t.name for t in graph.initializer if not numpy_helper.to_array(t).any()}
    kept = {value.name for value in graph.output}
    for node in graph.node:
        if operator_of(node) != "ScaleBias" or node.input[2] in zeros:
            kept |= set(node.input)
    changed = set()
    for node in graph.node:
        if body_of(node) == EIGHT_BITS and node.output[0] not in kept:
            node.op_type += _FLOAT_SUMS
            changed.add(node.output[0])
    for function in [f for f in model.functions if f.name.endswith(EIGHT_BITS)]:
        floats = model.functions.add()
        floats.CopyFrom(function)
        floats.name += _FLOAT_SUMS
        conversion = floats.node.pop()
        floats.node[-1].output[:] = conversion.output
    for value in graph.value_info:
        if value.name in changed:
            value.type.tensor_type.elem_type = TensorProto.FLOAT


def model_for_openvino(model: bytes) -> bytes:
    """Serialise what `openvino_model` makes of a serialised model."""
    return bytes(
        openvino_model(without_blocks(onnx.load_model_from_string(model))).SerializeToString()
    )
