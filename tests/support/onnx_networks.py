"""Hand-built coded networks, and their values on ONNX Runtime beside the oracle's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from apot_export.artifacts.onnx_model import build_model, serialise
from apot_export.network import (
    ActivationQuantizer,
    Add,
    AveragePool,
    CodedLayer,
    CodedNetwork,
    Convolution,
    Flatten,
    FloatLayer,
    GlobalAveragePool,
    Layer,
    Linear,
    MaxPool,
    Network,
    Node,
    Operation,
    QuantizeActivation,
    Relu,
    ScaleBias,
    oracle,
)
from apot_export.network.bitpack import pack
from apot_export.network.codebook import Codebook, apot, uniform

Floats = NDArray[np.float32]
CodedGraph = Network[Layer]
DIGITS = "examples/digits/res8_4bit/model_best.pth.tar"
DISABLED = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
EVERYTHING = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
WEIGHT_BOOKS = [
    *(apot(bits, signed=True) for bits in range(2, 7)),
    *(uniform(bits, signed=True) for bits in range(1, 16)),
    *(uniform(bits, signed=False) for bits in (1, 7, 16)),
    Codebook(tables=((0, 1, -4, 16), (0, -2)), denominator=17, signed=False),
]
"""Every width from 1 to 16 bits."""


# --- networks -------------------------------------------------------------------------------------


def quantizer(book: Codebook, alpha: float) -> ActivationQuantizer:
    return ActivationQuantizer(codebook=book, alpha=np.float32(alpha))


def coded(
    name: str,
    shape: tuple[int, ...],
    book: Codebook,
    activation: ActivationQuantizer | None,
    codes: NDArray[np.integer] | int = 0,
) -> CodedLayer:
    """Return a layer of given codes, or of random ones from a seed."""
    if isinstance(codes, int):
        codes = np.random.default_rng(codes).integers(0, 1 << book.bits, shape)
    step = 0.5 / book.denominator
    return CodedLayer(
        name=name,
        shape=shape,
        packed=pack(codes.astype(np.uint16), book.bits),
        codebook=book,
        step=step,
        values=(book.levels * step).astype(np.float32),
        alpha=0.5,
        activation=activation,
    )


def network(
    layers: list[Layer], graph: list[tuple[str, Operation, str]], image: tuple[int, int, int]
) -> CodedNetwork:
    return CodedGraph(
        nodes=tuple(
            Node(name=name, inputs=tuple(inputs.split()), operation=operation)
            for name, operation, inputs in graph
        ),
        layers={layer.name: layer for layer in layers},
        input="image",
        input_shape=image,
        output=graph[-1][0],
    )


def affine(channels: int, seed: int) -> ScaleBias:
    rng = np.random.default_rng(seed)
    scale = rng.uniform(0.001, 0.01, channels).astype(np.float32)
    return ScaleBias(scale=scale, bias=rng.normal(size=channels).astype(np.float32))


def every_operation() -> CodedNetwork:
    """Return a network with every operation, kind of layer and convolution attribute."""
    activations = [quantizer(apot(4, signed=False), 1.7), quantizer(uniform(3, signed=False), 0.9)]
    layers: list[Layer] = [
        coded("first", (6, 3, 3, 3), uniform(8, signed=True, denominator=127), None),
        coded("grouped", (9, 2, 3, 2), apot(3, signed=True), activations[0], 1),
        coded("wide", (5, 9, 1, 1), uniform(15, signed=True), activations[1], 2),
        FloatLayer(name="float", weight=np.full((4, 5, 2, 2), 0.01, dtype=np.float32)),
        coded("linear", (7, 32), apot(6, signed=True), activations[0], 3),
        coded("last", (4, 7), uniform(9, signed=True), None, 4),
        FloatLayer(name="end", weight=np.eye(4, dtype=np.float32)),
    ]
    grouped = Convolution(layer="grouped", padding=(2, 1), dilation=(2, 1), groups=3)
    graph: list[tuple[str, Operation, str]] = [
        ("first.sums", Convolution(layer="first", stride=(1, 2), padding=(1, 0)), "image"),
        ("first", affine(6, 0), "first.sums"),
        ("relu", Relu(), "first"),
        ("pool", MaxPool(kernel=(3, 2), stride=(2, 1), padding=(1, 0)), "relu"),
        ("grouped.levels", QuantizeActivation(layer="grouped"), "pool"),
        ("grouped.sums", grouped, "grouped.levels"),
        ("grouped", affine(9, 1), "grouped.sums"),
        ("twice", Add(), "grouped grouped"),
        ("wide.levels", QuantizeActivation(layer="wide"), "twice"),
        ("wide.sums", Convolution(layer="wide", stride=(1, 2)), "wide.levels"),
        ("wide", affine(5, 2), "wide.sums"),
        ("float.sums", Convolution(layer="float", padding=(1, 1)), "wide"),
        ("mean", AveragePool(kernel=(2, 2), stride=(3, 1)), "float.sums"),
        ("flat", Flatten(), "mean"),
        ("linear.levels", QuantizeActivation(layer="linear"), "flat"),
        ("linear.sums", Linear(layer="linear"), "linear.levels"),
        ("linear", affine(7, 3), "linear.sums"),
        ("last.sums", Linear(layer="last"), "linear"),
        ("last", affine(4, 4), "last.sums"),
        ("global", GlobalAveragePool(), "float.sums"),
        ("branch", Flatten(), "global"),
        ("sum", Add(), "last branch"),
        ("end", Linear(layer="end"), "sum"),
    ]
    return network(layers, graph, (3, 7, 16))


def single_linear(
    book: Codebook, codes: NDArray[np.integer], inputs: Codebook, alpha: float = 1
) -> CodedNetwork:
    """Return a network that quantizes an image and multiplies it with one matrix."""
    layer = coded("x", codes.shape, book, quantizer(inputs, alpha), codes)
    graph: list[tuple[str, Operation, str]] = [
        ("flat", Flatten(), "image"),
        ("levels", QuantizeActivation(layer="x"), "flat"),
        ("sums", Linear(layer="x"), "levels"),
        ("out", affine(codes.shape[0], 0), "sums"),
    ]
    return network([layer], graph, (1, 1, codes.shape[1]))


# --- running --------------------------------------------------------------------------------------


def model_of(network: CodedNetwork) -> onnx.ModelProto:
    return build_model(network, name="test", tool="test 1.2", metadata={"who": "test"})


def sessions(network: CodedNetwork) -> Iterator[Any]:
    """Yield sessions of all values, with and without optimization, on one and two threads."""
    model = model_of(network)
    model.graph.output.extend(model.graph.value_info)
    content = serialise(model)
    for level in (DISABLED, EVERYTHING):
        for threads in (1, 2):
            options = onnxruntime.SessionOptions()
            options.graph_optimization_level = level
            options.intra_op_num_threads = threads
            yield onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run_all(session: Any, images: Floats) -> dict[str, NDArray[Any]]:
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": images}), strict=True))


def assert_integers_are_the_oracles(network: CodedNetwork, images: Floats) -> int:
    """Compare every quantizer and accumulator, given the same inputs; return how many."""
    compared = 0
    for session in sessions(network):
        values = run_all(session, images)
        values[network.input] = images
        for node in network.nodes:
            operation = node.operation
            if not isinstance(operation, (QuantizeActivation, Convolution, Linear)):
                continue
            layer = network.layers[operation.layer]
            if not isinstance(layer, CodedLayer) or layer.activation is None:
                continue
            source = values[node.inputs[0]]
            if not isinstance(operation, QuantizeActivation):
                source = source.astype(np.int64)
                assert values[node.name].dtype == np.int32
            expected = oracle.compute(network, node, [source])
            np.testing.assert_array_equal(values[node.name], expected, err_msg=node.name)
            compared += expected.size
    return compared


def random_images(network: CodedNetwork, count: int) -> Floats:
    shape = (count, *network.input_shape)
    return np.random.default_rng(count).normal(size=shape).astype(np.float32)
