"""The plain float twin of a coded network as ONNX: what it would be without quantization."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from apot_export.network import (
    Add,
    AveragePool,
    CodedLayer,
    CodedNetwork,
    Convolution,
    Flatten,
    GlobalAveragePool,
    Linear,
    MaxPool,
    Node,
    QuantizeActivation,
    Relu,
    ScaleBias,
)

_OPSET = 17
_IR_VERSION = 8


def float_model(network: CodedNetwork) -> bytes:
    """Return a ResNet of a coded network with float32 weights, batch-norm folded in.

    Raises:
        TypeError: The network has an operation that ResNets do not have.
    """
    nodes, constants, names = [], [], {network.input: network.input}
    for node in network.nodes:
        if isinstance(node.operation, QuantizeActivation):
            names[node.name] = names[node.inputs[0]]
            continue
        if isinstance(node.operation, ScaleBias):
            names[node.name] = names[node.inputs[0]]  # folded into the weights before it
            continue
        names[node.name] = node.name
        inputs = [names[name] for name in node.inputs]
        if isinstance(node.operation, (Convolution, Linear)):
            for kind, numbers in _weights(network, node).items():
                inputs.append(f"{node.name}.{kind}")
                constants.append(numpy_helper.from_array(numbers, inputs[-1]))
        kind, attributes = _operation(node)
        nodes.append(helper.make_node(kind, inputs, [node.name], **attributes))
    output = names[network.output]
    graph = helper.make_graph(
        nodes,
        "float",
        [_info(network.input, network.input_shape)],
        [_info(output, network.shapes[output])],
        constants,
    )
    opsets = [helper.make_opsetid("", _OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
    return bytes(model.SerializeToString())


def _info(name: str, shape: tuple[int, ...]) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])


def _weights(network: CodedNetwork, node: Node) -> dict[str, Any]:
    assert isinstance(node.operation, (Convolution, Linear))
    layer = network.layers[node.operation.layer]
    (affine,) = network.users(node.name)
    assert isinstance(affine.operation, ScaleBias)
    numbers = layer.levels() if isinstance(layer, CodedLayer) else layer.weights()
    scale = affine.operation.scale.astype(np.float64)
    if isinstance(layer, CodedLayer) and layer.activation is not None:
        scale = scale / layer.activation.step
    shaped = scale.reshape(-1, *[1] * (len(layer.shape) - 1))
    bias = np.broadcast_to(affine.operation.bias, layer.shape[:1])
    return {"weight": (numbers * shaped).astype(np.float32), "bias": bias.astype(np.float32)}


def _operation(node: Node) -> tuple[str, dict[str, Any]]:
    operation = node.operation
    if isinstance(operation, Convolution):
        return "Conv", {
            "strides": operation.stride,
            "pads": (*operation.padding, *operation.padding),
            "dilations": operation.dilation,
            "group": operation.groups,
        }
    if isinstance(operation, Linear):
        return "Gemm", {"transB": 1}
    if isinstance(operation, AveragePool):
        return "AveragePool", {"kernel_shape": operation.kernel, "strides": operation.stride}
    if isinstance(operation, MaxPool):
        pads = (*operation.padding, *operation.padding)
        return "MaxPool", {
            "kernel_shape": operation.kernel,
            "strides": operation.stride,
            "pads": pads,
        }
    for kind, name in {Add: "Add", Relu: "Relu", GlobalAveragePool: "GlobalAveragePool"}.items():
        if isinstance(operation, kind):
            return name, {}
    if isinstance(operation, Flatten):
        return "Flatten", {}
    raise TypeError(f"{node.name}: {operation}")
