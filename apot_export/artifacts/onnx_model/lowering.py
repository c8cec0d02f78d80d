"""Which body computes which node of a graph, for each target.

A target changes how a node is computed, never what: every body gives the same integers. The choice
is made layer by layer, by shape and by proof that the body's arithmetic is exact; where a fast body
has none, the usual one stays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apot_export.artifacts.onnx_model import functions
from apot_export.artifacts.onnx_model.opsets import opset_of
from apot_export.errors import TargetError
from apot_export.network import CodedLayer, CodedNetwork, Node, Shape
from apot_export.network import operations as op
from apot_export.network.bounds import FLOAT32_EXACT, Proof

PORTABLE = "portable"
CPU = "cpu"
CUDA = "cuda"
OPENVINO = "openvino"
PLAIN = "plain"
TARGETS = (PORTABLE, CPU, CUDA, OPENVINO, PLAIN)
"""The runtimes that a model can be lowered for."""
_OF_FIXED_SIZE = (CPU, OPENVINO)
"""Targets whose bodies hold heights and widths."""

_LARGEST_LEVEL = 255
_LARGEST_WEIGHT = 127
_INT16_MAX = (1 << 15) - 1
_INT64_MAX = (1 << 63) - 1
_TOLERANCE = 1.000001
"""Of the limit that activations are clipped at, as in the functions `QuantizeActivation`."""
_WINOGRAD_CHANNELS = 128
"""Below, the transformations cost what the products save."""
_TF32_SIGNIFICANT_BITS = 11
_IMAGE_RANK = 3
"""Of channels, height, width."""


def require_target(
    target: str,
    *,
    batch: int = 0,
    keep_functions: bool = False,
    dynamic_size: bool = False,
    opset: int = 0,
) -> None:
    """Raise `TargetError` unless there is a target of this name, and with these options."""
    if target not in TARGETS:
        raise TargetError(
            "There is no such target.",
            expected=", ".join(TARGETS),
            got=repr(target),
            fix="leave --target out for a model that runs everywhere",
        )
    if batch < 0:
        raise TargetError("A batch has images.", expected="--batch 1 or more", got=str(batch))
    if target != PLAIN and (batch or keep_functions):
        raise TargetError(
            "--batch and --keep-functions are for the target plain; others take any batch and have "
            "functions.",
            got=f"--target {target}",
            fix="leave them out, or take --target plain",
        )
    if dynamic_size and target in _OF_FIXED_SIZE:
        raise TargetError(
            "The bodies of this target are made for images of one size.",
            expected=", ".join(name for name in TARGETS if name not in _OF_FIXED_SIZE),
            got=f"--target {target} with --dynamic-size",
            fix="leave out one of them",
        )
    opset_of(opset, plain=target == PLAIN)


@dataclass(frozen=True, kw_only=True)
class Body:
    """The body of a node, and what the body needs beside the node's own inputs and attributes."""

    name: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    constants: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Further inputs, in their order."""
    needs_one: bool = False
    """Whether the node has one more input, a 1.0 that runtimes do not fold."""
    float_values: bool = False
    """Whether the node's levels or accumulators are float32 that holds integers, not integers."""


def bodies_of(
    network: CodedNetwork,
    proofs: Mapping[str, Proof],
    target: str,
    *,
    dynamic_size: bool = False,
) -> dict[str, Body]:
    """Return the body of every node that has another than the usual one, by node.

    Args:
        network: The network.
        proofs: Of its accumulators, by layer.
        target: The runtime that it is lowered for.
        dynamic_size: Take no body that holds heights and widths.
    """
    chooser = {
        PORTABLE: _portable_body,
        CPU: _cpu_body,
        CUDA: _cuda_body,
        OPENVINO: _openvino_body,
        PLAIN: _plain_body,
    }[target]
    bodies = {node.name: chooser(network, proofs, node) for node in network.nodes}
    for node in network.nodes:
        if isinstance(node.operation, op.QuantizeActivation):
            first = network.input_quantizer(node.operation.layer).first_index
            if first < 0:
                bodies[node.name] = Body(
                    name=functions.PLAIN_SIGNED if target == PLAIN else functions.SIGNED,
                    constants={"first": np.array(first, dtype=np.float32)},
                    float_values=target in {PORTABLE, PLAIN},
                )
    left = functions.WINOGRAD if dynamic_size else None
    return {name: body for name, body in bodies.items() if body is not None and body.name != left}


def shared_images(
    network: CodedNetwork, bodies: Mapping[str, Body]
) -> dict[str, NDArray[np.int64]]:
    """Return the values that are best laid out channels last once, and their shapes so.

    These are images that both a quantizer and an addition read, and that no channels-last body
    made: the ones at which the first residual branch leaves.
    """
    images = {name for name, body in bodies.items() if body.name == functions.CHANNELS_LAST}
    last: set[str] = set()
    shared: dict[str, NDArray[np.int64]] = {}
    for node in network.nodes:
        users = network.users(node.name)
        keeps = isinstance(node.operation, (op.Add, op.Relu, op.Clip)) and last & set(node.inputs)
        added = any(isinstance(user.operation, op.Add) for user in users)
        quantized = any(
            isinstance(user.operation, op.QuantizeActivation) and user.name in images
            for user in users
        )
        if node.name in images or keeps:
            last.add(node.name)
        elif added and quantized:
            shared[node.name] = _image_shape(network.shapes[node.name])["image_shape"]
            last.add(node.name)
    return shared


def fits_bytes(layer: CodedLayer) -> bool:
    """Return whether 8-bit kernels sum products of a layer's levels and weights exactly.

    Levels are uint8 and weights int8; x86 without VNNI adds two products in int16, saturating.
    """
    if layer.activation is None:
        return False
    levels = layer.activation.codebook.levels
    level = int(levels.max())
    weight = int(np.abs(layer.codebook.levels).max())
    return bool(
        levels.min() >= 0
        and level <= _LARGEST_LEVEL
        and weight <= _LARGEST_WEIGHT
        and 2 * level * weight <= _INT16_MAX
    )


def tf32_is_exact(network: CodedNetwork) -> bool:
    """Return whether TF32 rounds nothing that the bodies for CUDA multiply.

    It keeps 11 significant bits of each factor. Float weights have more.
    """
    for node in network.nodes:
        if not isinstance(node.operation, (op.Convolution, op.Linear)):
            continue
        layer = _coded_layer(network, node)
        if layer is None:
            return False
        books = [layer.codebook]
        if layer.activation is not None:
            books.append(layer.activation.codebook)
        for book in books:
            mantissas, _ = np.frexp(book.levels.astype(np.float64))
            scaled = mantissas * (1 << _TF32_SIGNIFICANT_BITS)
            if (scaled != np.round(scaled)).any():
                return False
    return True


def _coded_layer(network: CodedNetwork, node: Node) -> CodedLayer | None:
    """Return the layer of a convolution or matrix product; None where its weights are not coded."""
    if not isinstance(node.operation, (op.Convolution, op.Linear)):
        return None
    layer = network.layers[node.operation.layer]
    return layer if isinstance(layer, CodedLayer) else None


def _summing_layer(network: CodedNetwork, node: Node | None) -> CodedLayer | None:
    """Return the layer of a node that sums products of integer levels; None for any other node."""
    layer = None if node is None else _coded_layer(network, node)
    return None if layer is None or layer.activation is None else layer


def _producer(network: CodedNetwork, node: Node) -> Node | None:
    """Return the node that makes a node's first input; None for the network's input."""
    return next((other for other in network.nodes if other.name == node.inputs[0]), None)


def _image_shape(shape: Shape) -> dict[str, NDArray[np.int64]]:
    channels, height, width = shape
    return {"image_shape": _int64(-1, height, width, channels)}


def _int64(*values: int) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


# --- any runtime ----------------------------------------------------------------------------------


def _portable_body(network: CodedNetwork, proofs: Mapping[str, Proof], node: Node) -> Body | None:
    operation = node.operation
    image = len(network.shapes[node.name]) == _IMAGE_RANK
    if isinstance(operation, op.QuantizeActivation):
        return Body(name="", float_values=True)
    if isinstance(operation, op.ScaleBias):
        # What a float convolution gives is scaled apart: runtimes fold that into its weights.
        integers = _summing_layer(network, _producer(network, node)) is not None
        channels = network.shapes[node.name][0]
        each = operation.scale.size == operation.bias.size == channels
        fits = integers and image and each
        return Body(name=functions.NORMALIZED) if fits else None
    if isinstance(operation, op.Convolution) and _summing_layer(network, node):
        exact = winograd_is_exact(proofs[operation.layer])
        return _winograd(network, node, operation) if exact else None
    return None


def winograd_is_exact(proof: Proof) -> bool:
    """Return whether float32 holds every sum of the body of Winograd's convolution.

    Its sums are halves of integers. With largest level a, and S the sum of an output's absolute
    weights, twice a sum is at most 2 a S for the taps that stand alone, 2 a S for half their sum
    with levels added, and a S for half their difference: 5 a S. A proof's bound is the larger of
    the sums of either sign, so at least half of a S. Signed levels lie up to 2 a apart, which gives
    8 a S, and their bound is a S.
    """
    return 10 * proof.bound < FLOAT32_EXACT


def _winograd(network: CodedNetwork, node: Node, operation: op.Convolution) -> Body | None:
    """Return the body of Winograd's convolution, where the shape allows and repays it."""
    outputs, inputs, *kernel = network.layers[operation.layer].shape
    plain = (tuple(kernel), operation.stride, operation.dilation, operation.groups)
    if plain != ((3, 3), (1, 1), (1, 1), 1) or min(outputs, inputs) < _WINOGRAD_CHANNELS:
        return None
    _, height, _ = network.shapes[node.inputs[0]]
    _, rows, columns = network.shapes[node.name]
    above, beside = operation.padding
    made = rows + rows % 2
    below = made + 2 - height - above
    return Body(
        name=functions.WINOGRAD,
        attributes={
            "channels": inputs,
            "edges": [above, 0, below, 0],
            "sides": [0, beside, 0, beside],
        },
        constants={
            "transform_shape": _int64(inputs, 1, 1, 1),
            "joined_shape": _int64(0, outputs, made, columns),
            "ends": _int64(_INT64_MAX if rows == made else rows),
        },
    )


# --- ONNX Runtime on CPUs -------------------------------------------------------------------------


def _cpu_body(network: CodedNetwork, proofs: Mapping[str, Proof], node: Node) -> Body | None:
    del proofs  # MatMulInteger sums in int32, which every proof covers.
    operation = node.operation
    if isinstance(operation, (op.Convolution, op.Linear)):
        return _integer_product(network, node)
    if isinstance(operation, op.QuantizeActivation):
        users = network.users(node.name)
        shape = network.shapes[node.name]
        if len(shape) != _IMAGE_RANK or not all(_integer_product(network, u) for u in users):
            return None
        return Body(name=functions.CHANNELS_LAST, constants=_image_shape(shape))
    if isinstance(operation, op.ScaleBias):
        producer = _producer(network, node)
        if producer is not None and _integer_product(network, producer):
            image = len(network.shapes[node.name]) == _IMAGE_RANK
            body = functions.CHANNELS_LAST if image else functions.PRODUCT
            return Body(name=body, needs_one=True)
    return None


def _integer_product(network: CodedNetwork, node: Node) -> Body | None:
    """Return the body that makes an integer matrix product of a node; None where none is exact."""
    layer, operation = _coded_layer(network, node), node.operation
    if layer is None or not fits_bytes(layer):
        return None
    if not isinstance(operation, op.Convolution):
        return Body(name=functions.PRODUCT)
    return _patches(network, node, operation) if operation.groups == 1 else None


def _patches(network: CodedNetwork, node: Node, operation: op.Convolution) -> Body:
    outputs, channels, *kernel = network.layers[operation.layer].shape
    terms = channels * math.prod(kernel)
    weight_shape = _int64(terms, outputs)
    if (tuple(kernel), operation.stride, operation.padding) == ((1, 1), (1, 1), (0, 0)):
        return Body(name=functions.POINTWISE, constants={"weight_shape": weight_shape})
    _, *extent = network.shapes[node.inputs[0]]
    _, *places = network.shapes[node.name]
    padding = list(operation.padding)
    height, width = (size + 2 * pad for size, pad in zip(extent, padding, strict=True))
    steps = {
        "rows": operation.stride[0] * width,
        "columns": operation.stride[1],
        "tap_rows": operation.dilation[0] * width,
        "tap_columns": operation.dilation[1],
    }
    positions = np.ogrid[tuple(slice(size) for size in (*places, *kernel))]
    constants: dict[str, NDArray[Any]] = {
        "margins": _int64(0, *padding, 0, 0, *padding, 0),
        "flat_shape": _int64(0, height * width, channels),
        **{
            name: (index * step).astype(np.int32)
            for (name, step), index in zip(steps.items(), positions, strict=True)
        },
        "patch_shape": _int64(0, *places, terms),
        "weight_shape": weight_shape,
    }
    return Body(name=functions.PATCHES, constants=constants)


# --- other runtimes -------------------------------------------------------------------------------


def _cuda_body(network: CodedNetwork, proofs: Mapping[str, Proof], node: Node) -> Body | None:
    del proofs  # Float32 sums as in the portable bodies.
    layer = _coded_layer(network, node)
    float_input = layer is not None and layer.activation is None
    return Body(name=functions.THREE_PARTS) if float_input else None


def _openvino_body(network: CodedNetwork, proofs: Mapping[str, Proof], node: Node) -> Body | None:
    operation = node.operation
    if isinstance(operation, op.QuantizeActivation):
        layer = network.layers[operation.layer]
        if not isinstance(layer, CodedLayer) or layer.activation is None:
            return None
        ending = functions.BYTES if layer.activation.last_index <= _LARGEST_LEVEL else ""
        shape = network.shapes[node.name]
        if len(shape) != _IMAGE_RANK:
            return Body(name=functions.GATHER_FLAT + ending)
        return Body(name=functions.GATHER + ending, constants=_image_shape(shape))
    product = _coded_layer(network, node)
    if product is None or not fits_bytes(product):
        return None
    exact = proofs[product.name].bound < FLOAT32_EXACT  # The kernels give float32.
    return Body(name=functions.EIGHT_BITS) if exact else None


def _plain_body(network: CodedNetwork, proofs: Mapping[str, Proof], node: Node) -> Body | None:
    operation = node.operation
    if isinstance(operation, op.QuantizeActivation):
        quantizer = network.input_quantizer(operation.layer)
        threshold = np.float32(quantizer.last_index) / quantizer.index_scale
        limit = np.asarray(threshold * np.float32(_TOLERANCE))
        return Body(name=functions.PLAIN, constants={"limit": limit}, float_values=True)
    if _coded_layer(network, node) is not None:
        split = _split(network, proofs, node)
        if not split:
            return Body(name=functions.PLAIN, float_values=True)
        size = np.array(1 << split, dtype=np.float32)
        return Body(name=functions.PLAIN_SPLIT, constants={"size": size})
    if isinstance(operation, op.ScaleBias):
        whole = _split(network, proofs, _producer(network, node))
        return None if whole else Body(name=functions.PLAIN)
    return None


def _split(network: CodedNetwork, proofs: Mapping[str, Proof], node: Node | None) -> int:
    """Return the bits of the low part of a node's levels; 0 where its sums are taken at once."""
    layer = _summing_layer(network, node)
    return 0 if layer is None else proofs[layer.name].split
