"""`verify` fails every planted fault and names its place."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from apot_export.artifacts import onnx_model
from apot_export.artifacts.directory import read_manifest
from apot_export.artifacts.onnx_model import _builder, graph
from apot_export.conversion.convert import convert
from apot_export.encoding.capture import capture
from apot_export.encoding.encode import encode_network
from apot_export.errors import ApotExportError
from apot_export.network import CodedLayer, CodedNetwork, ScaleBias
from apot_export.network.bitpack import pack
from apot_export.network.codebook import Codebook, uniform
from apot_export.original.choices import Choices
from apot_export.original.published import load_original
from tests.support.divergences import body
from tests.support.workshop import (
    DIGITS,
    LAYER,
    Change,
    Edit,
    Workshop,
    change_layer,
    change_node,
    open_workshop,
)


@pytest.fixture(scope="module")
def workshop(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return open_workshop(project / DIGITS, tmp_path_factory.mktemp("verification"))


# --- faults in the network ------------------------------------------------------------------------


def one_code(network: CodedNetwork) -> CodedNetwork:
    layer = network.layers[LAYER]
    assert isinstance(layer, CodedLayer)
    codes = layer.codes.copy()
    codes[3, 2, 1, 0] ^= 1
    return change_layer(network, LAYER, stored=pack(codes, layer.codebook.bits))


def one_sign(network: CodedNetwork) -> CodedNetwork:
    """Flip the sign of one weight of the last, 8-bit layer."""
    layer = network.layers["fc"]
    assert isinstance(layer, CodedLayer)
    codes = layer.codes.copy()
    place = tuple(np.argwhere(layer.levels())[0])
    codes[place] ^= layer.codebook.sign_mask
    return change_layer(network, "fc", stored=pack(codes, layer.codebook.bits))


def threshold(factor: float) -> Change:
    def change(network: CodedNetwork) -> CodedNetwork:
        layer = network.layers[LAYER]
        assert isinstance(layer, CodedLayer)
        assert layer.activation is not None
        alpha = np.float32(layer.activation.alpha * np.float32(factor))
        return change_layer(network, LAYER, activation=replace(layer.activation, alpha=alpha))

    return change


def other_levels(network: CodedNetwork) -> CodedNetwork:
    """Quantize one layer's input to uniform levels of the same largest value."""
    layer = network.layers[LAYER]
    assert isinstance(layer, CodedLayer)
    assert layer.activation is not None
    book = uniform(4, signed=False, denominator=layer.activation.codebook.denominator)
    return change_layer(network, LAYER, activation=replace(layer.activation, codebook=book))


def affine(name: str, scale: float = 0, bias: float = 0) -> Change:
    """Change channel 3 of a scale by a factor 1 + scale, and of a bias by a summand."""

    def change_operation(operation: ScaleBias) -> ScaleBias:
        size = max(operation.scale.size, operation.bias.size)
        scales, biases = (
            np.broadcast_to(numbers, size).copy() for numbers in (operation.scale, operation.bias)
        )
        scales[3] *= np.float32(1 + scale)
        biases[3] += np.float32(bias)
        return ScaleBias(scale=scales, bias=biases)

    return lambda network: change_node(network, name, change_operation)


def geometry(**changes: Any) -> Change:
    return lambda network: change_node(
        network, f"{LAYER}.sums", lambda operation: replace(operation, **changes)
    )


FAULTS: dict[str, tuple[Change, str]] = {
    "a code": (one_code, LAYER),
    "a sign of the last layer": (one_sign, "fc"),
    "threshold 1 % up": (threshold(1.01), LAYER),
    "threshold 1 % down": (threshold(0.99), LAYER),
    "threshold 0.1 % up": (threshold(1.001), LAYER),
    "another level set": (other_levels, LAYER),
    "batch-norm scale": (affine("layer2.0.bn2", scale=1e-3), "layer2.0.bn2"),
    "batch-norm scale, barely": (affine("layer2.0.bn2", scale=3e-5), "layer2.0.bn2"),
    "batch-norm bias": (affine("layer2.0.bn2", bias=1e-3), "layer2.0.bn2"),
    "first scale": (affine("bn1", scale=1e-3), "bn1"),
    "last bias": (affine("fc", bias=1e-3), "fc|logits"),
    "dilation": (geometry(padding=(2, 2), dilation=(2, 2)), f"{LAYER}|layer2.0.bn2"),
}


def write(workshop: Workshop, wrong: CodedNetwork, place: str) -> Path:
    """Write the wrong network as the packed file, as the ONNX model, or as both."""
    return workshop.write(
        packed=None if place == "model" else wrong, model=None if place == "packed" else wrong
    )


@pytest.mark.parametrize("place", ["packed", "model", "both"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_fails_and_is_named(workshop: Workshop, fault: str, place: str) -> None:
    change, named = FAULTS[fault]
    wrong = change(workshop.network)
    report = workshop.verify(write(workshop, wrong, place))
    assert report.verdict == "FAIL"
    assert re.search(named, " ".join(report.failures))
    assert report.divergence is not None
    assert re.search(named, report.divergence.layer)
    assert report.divergence.cause is None
    assert report.to_json()["failures"] == list(report.failures)


def test_a_code_in_one_artifact_is_named_with_its_artifact(workshop: Workshop) -> None:
    wrong = one_code(workshop.network)
    for place, artifact in (("packed", "in the packed file"), ("model", "in the ONNX model")):
        report = workshop.verify(write(workshop, wrong, place))
        (offender,) = report.weights.offenders
        assert offender.startswith(f"{LAYER}: 1 of {workshop.network.layers[LAYER].weights().size}")
        assert "[3, 2, 1, 0]" in offender
        assert artifact in offender
        assert (report.weights.layers, report.weights.exact) == (10, 9)


def test_a_step_that_is_not_the_values_fails(workshop: Workshop) -> None:
    layer = workshop.network.layers[LAYER]
    assert isinstance(layer, CodedLayer)
    wrong = change_layer(workshop.network, LAYER, step=layer.step * 1.00001)
    report = workshop.verify(workshop.write(packed=wrong))
    assert f"{LAYER}: step" in " ".join(report.failures)


def test_a_failure_is_json_that_any_parser_reads(workshop: Workshop) -> None:
    """Levels that the original does not have are infinitely far away; JSON has no infinity."""
    report = workshop.verify(workshop.write(model=other_levels(workshop.network)))
    (worst,) = (layer for layer in report.levels.layers if layer.layer == LAYER)
    assert np.isinf(worst.largest_distance)
    document = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert LAYER in [
        layer["layer"]
        for layer in document["levels"]["layers"]
        if layer["largest_distance"] is None
    ]

    infinite = workshop.verify(
        workshop.write(model=affine("layer2.0.bn2", bias=np.inf)(workshop.network))
    )
    assert infinite.verdict == "FAIL"
    assert np.isinf(infinite.levels.largest_ratio)
    json.dumps(infinite.to_json(), allow_nan=False)


def test_a_weight_threshold_that_is_not_the_original_s_fails(workshop: Workshop) -> None:
    """No weight depends on it, but `inspect` prints it."""
    layer = workshop.network.layers[LAYER]
    assert isinstance(layer, CodedLayer)
    assert layer.alpha is not None
    wrong = change_layer(workshop.network, LAYER, alpha=layer.alpha * 1.5)
    report = workshop.verify(workshop.write(packed=wrong))
    assert f"{LAYER}: weight threshold" in " ".join(report.failures)
    assert report.divergence is not None
    assert (report.divergence.layer, report.divergence.kind) == (LAYER, "constants")
    assert report.divergence.export == layer.alpha * 1.5


@pytest.mark.parametrize(
    ("value", "attribute", "wrong"),
    [
        (f"{LAYER}.levels", "alpha", 9.0),
        (f"{LAYER}.levels", "denominator", 15),
        (f"{LAYER}.levels_of_weights", "bits", 5),
        (f"{LAYER}.levels_of_weights", "digit_tables", [0, 1, 2, 3]),
    ],
)
def test_a_node_that_says_what_it_does_not_do_fails(
    workshop: Workshop, value: str, attribute: str, wrong: Any
) -> None:
    """ONNX Runtime never reads it; a runtime with operators of its own would."""

    def edit(model: onnx.ModelProto) -> None:
        (node,) = (item for item in model.graph.node if item.output[0] == value)
        (found,) = (item for item in node.attribute if item.name == attribute)
        found.CopyFrom(helper.make_attribute(attribute, wrong))

    report = workshop.verify(workshop.write(edit=edit))
    said = f"{LAYER}: attribute {attribute} of {value} {wrong} instead of"
    assert said in " ".join(report.failures)
    assert report.divergence is not None
    assert (report.divergence.layer, report.divergence.kind) == (LAYER, "constants")
    assert report.divergence.cause is None


@pytest.mark.parametrize(
    "changes", [{"stride": (2, 2)}, {"padding": (0, 0)}, {"padding": (0, 1)}], ids=str
)
def test_another_geometry_is_no_export_at_all(workshop: Workshop, changes: Any) -> None:
    """Sizes no longer fit: the residual sum has no meaning, and nothing can be written."""
    with pytest.raises(ApotExportError, match="wrong shape"):
        geometry(**changes)(workshop.network)


@pytest.mark.parametrize("place", ["packed", "model", "both"])
def test_another_stride_at_the_end_is_caught(workshop: Workshop, place: str) -> None:
    """A pool that moves on by another stride: all sizes fit, no value changes but one."""
    wrong = change_node(workshop.network, "avgpool", lambda pool: replace(pool, kernel=(1, 1)))
    report = workshop.verify(write(workshop, wrong, place))
    assert "avgpool" in " ".join(report.failures)


@pytest.mark.parametrize("bits", [2, 3, 5])
def test_weights_of_another_bit_width_fail(workshop: Workshop, bits: int) -> None:
    wrong_bits = load_original(workshop.checkpoint, Choices(bits=bits))
    wrong = encode_network(capture(wrong_bits.module, wrong_bits.architecture.input_shape))
    report = workshop.verify(workshop.write(packed=wrong, model=wrong))
    assert report.weights.exact == 2
    assert report.divergence is not None
    assert (report.divergence.kind, report.divergence.cause) == ("weights", "wrong bits")
    assert f"{bits} bits" in report.divergence.evidence
    assert LAYER in " ".join(report.weights.offenders) or "layer1" in report.weights.offenders[0]
    assert "8 of 10 layers have other weights" in report.failures[0]
    choices = read_manifest(workshop.export)["choices"]
    manifest = workshop.verify(workshop.write(choices={**choices, "bits": bits}))
    assert manifest.verdict == "FAIL"


def test_clamping_the_first_layer_to_int8_fails(
    reference: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    checkpoint = reference / "checkpoints/CIFAR10/result/res20_3bit/model_best.pth.tar"
    export = convert(checkpoint, tmp_path_factory.mktemp("clamped") / "res20_3bit").path
    shop = Workshop(checkpoint=checkpoint, export=export, folder=tmp_path)
    options = {"data": reference / "datasets/cifar10-test-head", "limit": 8}
    assert shop.verify(export, **options).verdict == "PASS"
    for name, lowest in (("conv1", -128), ("fc", -127)):
        layer = shop.network.layers[name]
        assert isinstance(layer, CodedLayer)
        magnitudes = np.minimum(np.abs(layer.levels()), -lowest)
        codes = (magnitudes | (layer.codes & layer.codebook.sign_mask)).astype(np.uint16)
        clamped = change_layer(shop.network, name, stored=pack(codes, layer.codebook.bits))
        changed = int((clamped.layers[name].weights() != layer.weights()).sum())
        report = shop.verify(shop.write(packed=clamped, model=clamped), **options)
        assert changed in {1, 2, 3}
        assert f"{name}: {changed} of " in " ".join(report.failures)
        assert report.divergence is not None
        assert report.divergence.layer == name


# --- faults in the ONNX model ---------------------------------------------------------------------


def initializer(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    (tensor,) = (item for item in model.graph.initializer if item.name.startswith(name))
    return tensor


def table(name: str, change: Callable[[Any], Any]) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        tensor = initializer(model, name)
        values = change(numpy_helper.to_array(tensor))
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))

    return edit


def swap(first: int, second: int) -> Callable[[Any], Any]:
    def change(values: Any) -> Any:
        swapped = values.copy()
        swapped[[first, second]] = values[[second, first]]
        return swapped

    return change


def own_table(change: Callable[[Any], Any]) -> Edit:
    """Give one layer an activation table of its own."""

    def edit(model: onnx.ModelProto) -> None:
        shared = initializer(model, "activation_levels")
        values = change(numpy_helper.to_array(shared))
        model.graph.initializer.append(numpy_helper.from_array(values, "own"))
        (node,) = (item for item in model.graph.node if item.name == f"{LAYER}.levels")
        node.input[3] = "own"

    return edit


def without_relu(model: onnx.ModelProto) -> None:
    (node,) = (item for item in model.graph.node if item.name == "layer2.0.relu")
    node.op_type = "Identity"


MODEL_FAULTS: dict[str, tuple[Edit, str]] = {
    "weight levels": (table("weight_levels_4", swap(1, 2)), LAYER),
    "weight signs": (table("weight_levels_8", lambda values: -values), "conv1"),
    "unpacking": (table("unpack4.shifts", lambda values: values[::-1]), LAYER),
    "levels swapped for all layers": (table("activation_levels", swap(20, 60)), LAYER),
    "levels swapped for one layer": (own_table(swap(20, 60)), LAYER),
    "half a step up": (own_table(lambda values: np.append(values[1:], values[-1])), LAYER),
    "half a step down": (own_table(lambda values: np.append(values[0], values[:-1])), LAYER),
    "rounding instead of floor": (
        body(
            "QuantizeActivation",
            "image_index = Cast <to: int = 6> (scaled)",
            "rounded = Round (scaled) image_index = Cast <to: int = 6> (rounded)",
        ),
        LAYER,
    ),
    "no bias": (body("ScaleBias", "Add (scaled, bias)", "Identity (scaled)"), "bn1"),
    "half-precision accumulators": (
        body(
            "ShiftConv",
            "accumulators = Cast <to: int = 6> (exact)",
            "half = Cast <to: int = 10> (exact) accumulators = Cast <to: int = 6> (half)",
        ),
        "layer1.0.bn1",
    ),
    "a missing ReLU": (without_relu, "layer2.0.relu"),
}


@pytest.mark.parametrize("fault", MODEL_FAULTS)
def test_a_fault_of_the_onnx_model_fails_and_is_named(workshop: Workshop, fault: str) -> None:
    edit, named = MODEL_FAULTS[fault]
    report = workshop.verify(workshop.write(edit=edit), limit=64)
    assert report.verdict == "FAIL"
    found = (*report.weights.offenders, *report.levels.offenders, *report.accumulators.offenders)
    assert named in " ".join(found)


# --- faults of the exporter -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attribute", "change"),
    [
        ("bits", lambda value: value + 1),
        ("denominator", lambda value: 2 * value),
        ("digit_tables", lambda value: value[::-1]),
        ("digit_table_sizes", lambda value: [*value, 2]),
    ],
)
def test_a_fault_of_the_function_that_writes_attributes_fails(
    workshop: Workshop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    attribute: str,
    change: Callable[[Any], Any],
) -> None:
    """Both artifacts, the digests and whatever the writer thinks of them are consistent."""
    right = _builder.codebook_attributes

    def wrong(codebook: Codebook) -> dict[str, Any]:
        attributes = right(codebook)
        return {**attributes, attribute: change(attributes[attribute])}

    for module in (onnx_model, _builder, graph):
        monkeypatch.setattr(module, "codebook_attributes", wrong, raising=False)
    export = convert(workshop.checkpoint, tmp_path / "export").path
    report = workshop.verify(export)
    assert report.verdict == "FAIL"
    assert (report.weights.layers, report.weights.exact) == (10, 0)
    assert f"attribute {attribute} of " in report.weights.offenders[0]
    assert report.divergence is not None
    assert (report.divergence.kind, report.divergence.cause) == ("constants", None)
