"""The OpenVINO form of models: the same values, and the oracle's integers where OpenVINO is."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from apot_export.artifacts.onnx_model import openvino_model, serialise
from apot_export.artifacts.onnx_model.lowering import TARGETS
from apot_export.artifacts.onnx_model.probe import integers_as_such, with_outputs
from apot_export.network import CodedLayer, CodedNetwork, Convolution, QuantizeActivation, oracle
from apot_export.network.codebook import Codebook, apot, uniform
from apot_export.runtimes.onnx_runtime import open_session
from tests.support.networks import (
    Floats,
    affine,
    coded,
    every_operation,
    network_of,
    quantizer,
    random_images,
    single_linear,
)
from tests.support.onnx_values import model_of


def convolutions(weights: Codebook, inputs: Codebook) -> CodedNetwork:
    """Return a strided, a padded and a pointwise convolution in a row."""
    shapes = {"a": (16, 3, 3, 3), "b": (24, 16, 1, 1), "c": (16, 24, 3, 3)}
    layers = [
        coded(name, shape, weights, quantizer(inputs, 1.0), seed)
        for seed, (name, shape) in enumerate(shapes.items())
    ]
    geometry: dict[str, Any] = {"a": {"stride": (2, 2)}, "b": {}, "c": {"padding": (1, 1)}}
    graph: list[Any] = []
    previous = "image"
    for name, shape in shapes.items():
        graph += [
            (f"{name}.levels", QuantizeActivation(layer=name), previous),
            (f"{name}.sums", Convolution(layer=name, **geometry[name]), f"{name}.levels"),
            (name, affine(shape[0], shape[1]), f"{name}.sums"),
        ]
        previous = name
    return network_of(list(layers), graph, (3, 11, 13))


@pytest.mark.parametrize("target", TARGETS)
def test_no_value_changes(target: str) -> None:
    net = every_operation()
    images = random_images(net, 2)
    model = model_of(net, target)
    content = serialise(model)
    flat = openvino_model(model)
    assert serialise(model) == content
    onnx.checker.check_model(flat, full_check=True)
    assert not flat.functions
    assert {node.domain for node in flat.graph.node} == {""}
    expected = open_session(content, "cpu").run(images)
    found = open_session(serialise(flat), "cpu").run(images)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def readers_of_sums(model: onnx.ModelProto) -> set[tuple[str, int]]:
    """Return the operators that read what convolutions sum, and what casts convert it to."""
    sums = {n.output[0] for n in model.graph.node if n.op_type == "Conv"}
    readers = [n for n in model.graph.node if sums & set(n.input)]
    return {(n.op_type, onnx.helper.get_node_attr_value(n, "to")) for n in readers}


def test_weights_are_initializers_and_integers_stay_floats() -> None:
    net = convolutions(apot(3, signed=True), apot(4, signed=False))
    flat = openvino_model(model_of(net, "openvino"))
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in flat.graph.initializer}
    for name, layer in net.layers.items():
        assert isinstance(layer, CodedLayer)
        weights = stored[f"{name}.levels_of_weights"]
        assert weights.dtype == np.int8
        np.testing.assert_array_equal(weights, layer.levels())
    assert not any(name.endswith(".codes") for name in stored)
    assert readers_of_sums(flat) == {("Cast", onnx.TensorProto.FLOAT)}


def test_float_sums_stay_apart_from_their_scale() -> None:
    net = convolutions(apot(3, signed=True), apot(6, signed=False))  # levels beyond a byte
    flat = openvino_model(model_of(net, "openvino"))
    assert readers_of_sums(flat) == {("Cast", onnx.TensorProto.INT32)}


def test_accumulators_that_are_asked_for_are_integers() -> None:
    net = convolutions(apot(3, signed=True), apot(4, signed=False))
    asked = onnx.load_from_string(with_outputs(model_of(net, "openvino")))
    values = open_session(serialise(openvino_model(asked)), "cpu").run_all(random_images(net, 1))
    for name in ("a", "b", "c"):
        assert values[f"{name}.sums"].dtype == np.int32


# --- in OpenVINO ----------------------------------------------------------------------------------


def in_openvino(model: onnx.ModelProto, images: Floats) -> dict[str, np.ndarray[Any, Any]]:
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    read = core.read_model(serialise(openvino_model(model)))
    compiled = core.compile_model(
        read, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    )
    results = compiled(images)
    return {name: results[port] for port in compiled.outputs for name in port.get_names()}


@pytest.mark.parametrize("target", ["portable", "openvino"])
@pytest.mark.parametrize(
    ("weights", "inputs"),
    [
        (apot(3, signed=True), apot(4, signed=False)),
        (apot(2, signed=True), apot(2, signed=False)),
        (apot(5, signed=True), apot(5, signed=False)),
        (apot(5, signed=True), apot(6, signed=False)),
        (uniform(7, signed=True), uniform(7, signed=False)),
        (uniform(1, signed=True), uniform(8, signed=False)),
    ],
    ids=str,
)
def test_openvino_computes_the_oracles_integers(
    weights: Codebook, inputs: Codebook, target: str
) -> None:
    net = convolutions(weights, inputs)
    assert_values_are_the_oracles(net, target, random_images(net, 2))


@pytest.mark.parametrize("target", ["portable", "openvino"])
def test_openvino_computes_matrices(target: str) -> None:
    codes = np.random.default_rng(0).integers(0, 16, (9, 33))
    net = single_linear(apot(3, signed=True), codes, apot(4, signed=False))
    assert_values_are_the_oracles(net, target, random_images(net, 5))


def assert_values_are_the_oracles(net: CodedNetwork, target: str, images: Floats) -> None:
    """Compare every integer of a model with all outputs, and the logits of one with its own."""
    model = model_of(net, target)
    looked_at = onnx.load_from_string(with_outputs(model))
    values = integers_as_such(net, in_openvino(looked_at, images))
    values[net.input] = images
    for node in net.nodes:
        if not node.name.endswith(("levels", "sums")):
            continue
        source = values[node.inputs[0]]
        source = source if source.dtype == np.float32 else source.astype(np.int64)
        expected = oracle.compute(net, node, [source])
        np.testing.assert_array_equal(values[node.name], expected, err_msg=node.name)
    plain = in_openvino(model, images)["logits"]
    largest = np.abs(plain).max()
    np.testing.assert_allclose(plain, values["logits"], rtol=0, atol=2e-6 * largest)
