"""Target plain: old standard operators alone, and every value of the portable model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from torch import nn

from apot_export.artifacts.directory import ONNX_MODEL
from apot_export.artifacts.onnx_model import DOMAIN, build_model, serialise
from apot_export.artifacts.onnx_model.probe import (
    integers_as_such,
    stated_attributes,
    with_outputs,
)
from apot_export.conversion.convert import convert
from apot_export.encoding.capture import capture
from apot_export.encoding.encode import encode_network
from apot_export.errors import TargetError
from apot_export.network import CodedNetwork
from apot_export.network.comparison import compare_oracle
from apot_export.original.choices import Choices
from apot_export.original.published import load_original
from apot_export.runtimes.onnx_runtime import open_session
from apot_export.verification.proof.levels import compare_levels
from tests.support.commands import CHECKPOINT, document, replace_file, run
from tests.support.networks import every_operation, random_images
from tests.support.onnx_values import model_of
from tests.support.random_coded_networks import plane_network
from tests.support.workshop import DIGITS

NETWORKS = {
    "digits": DIGITS,
    "res20_2bit": "checkpoints/CIFAR10/result/res20_2bit/model_best.pth.tar",
    "res20_4bit": "checkpoints/CIFAR10/result/res20_4bit/model_best.pth.tar",
    "LeNet5": "checkpoints/ALQ/lenet5_model.pth",
    "res18": "checkpoints/ImageNet/res18_4bit.pth.tar",
}


def opened(path: Path) -> tuple[nn.Module, CodedNetwork]:
    original = load_original(path, Choices())
    shape = original.architecture.input_shape
    coded = encode_network(capture(original.module, shape, original.multi_bit))
    return original.module.eval(), coded


def values_of(model: onnx.ModelProto, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    return open_session(with_outputs(model), "cpu").run_all(images)


@pytest.mark.parametrize("name", NETWORKS)
def test_it_computes_what_the_portable_model_computes(
    name: str, project: Path, request: pytest.FixtureRequest
) -> None:
    root = project if name == "digits" else request.getfixturevalue("reference")
    module, network = opened(root / NETWORKS[name])
    images = random_images(network, 2)
    values = values_of(model_of(network, "plain"), images)
    portable = values_of(model_of(network), images)
    assert values.keys() == portable.keys()
    tops = values["logits"].argmax(axis=1), portable["logits"].argmax(axis=1)
    np.testing.assert_array_equal(*tops)
    integers = integers_as_such(network, values)
    if name != "res18":  # half a minute of the oracle
        sums = compare_oracle(network, images[:1], {k: v[:1] for k, v in integers.items()})
        assert (sums.mismatches, sums.values_outside) == (0, 0), sums.offenders
    levels = compare_levels(module, images, integers)
    assert (levels.unexplained, levels.values_outside) == (0, 0), levels.offenders


@pytest.mark.parametrize("network", [every_operation(), plane_network()])
def test_nodes_are_standard_operators_of_an_old_opset(network: CodedNetwork) -> None:
    model = model_of(network, "plain")
    onnx.checker.check_model(model, full_check=True)
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 14)]
    assert model.ir_version == 7
    assert not model.functions
    assert {node.domain for node in model.graph.node} == {""}
    kinds = {node.op_type for node in model.graph.node}
    assert not kinds & {"Constant", "Shape", "Reshape", "Transpose", "GatherElements"}
    layers = {f"{name}.{part}" for name in network.layers for part in ("sums", "levels")}
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert {node.name for node in network.nodes} - {network.output} <= {*names, *layers}
    read = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= read


def test_sums_of_levels_are_rounded_before_anything_reads_them() -> None:
    network = every_operation()
    model = model_of(network, "plain")
    levels = {name for node in model.graph.node if node.op_type == "Gather" for name in node.output}
    sums = {
        node.output[0]
        for node in model.graph.node
        if node.op_type in {"Conv", "Gemm"} and levels & set(node.input)
    }
    readers = [node.op_type for node in model.graph.node if sums & set(node.input)]
    assert readers == ["Round"] * len(sums)
    assert sums


def test_onnxs_reference_evaluates_the_digits_network(project: Path) -> None:
    _, network = opened(project / DIGITS)
    images = random_images(network, 3)
    model = model_of(network, "plain")
    outputs: Any = ReferenceEvaluator(model).run(None, {"images": images})
    expected = open_session(serialise(model), "cpu").run(images)
    np.testing.assert_allclose(outputs[0], expected, rtol=1e-4, atol=1e-4)


def test_metadata_state_what_nodes_of_other_targets_state() -> None:
    network = every_operation()
    found, expected = (stated_attributes(model_of(network, t)) for t in ("plain", "portable"))
    assert found.keys() == expected.keys()
    for value, attributes in expected.items():
        step = {k: v for k, v in found[value].items() if k == "step"}
        assert found[value] == {**attributes, **step}
        assert bool(step) == value.endswith("weights")


def plain_model(network: CodedNetwork, **options: Any) -> onnx.ModelProto:
    return build_model(network, name="x", tool="t 1", metadata={}, target="plain", **options)


def test_batches_can_be_fixed() -> None:
    network = every_operation()
    images = random_images(network, 5)
    model = plain_model(network, batch=2)
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        assert value.type.tensor_type.shape.dim[0].dim_value == 2
    onnx.checker.check_model(model, full_check=True)
    expected = open_session(serialise(plain_model(network)), "cpu").run(images)
    for count in (1, 2, 5):  # filled up, and cut
        found = open_session(serialise(model), "cpu").run(images[:count])
        np.testing.assert_array_equal(found, expected[:count])


def test_functions_can_be_kept() -> None:
    network = every_operation()
    images = random_images(network, 2)
    model = plain_model(network, keep_functions=True)
    onnx.checker.check_model(model, full_check=True)
    assert {item.domain for item in model.opset_import} == {"", DOMAIN}
    calls = {node.op_type for node in model.graph.node if node.domain}
    assert calls == {function.name for function in model.functions}
    assert "DecodeWeights" not in calls
    found, expected = values_of(model, images), values_of(plain_model(network), images)
    assert found.keys() == expected.keys()
    for value, array in found.items():
        np.testing.assert_array_equal(array, expected[value])


@pytest.mark.parametrize(
    "options", [{"batch": 1}, {"keep_functions": True}, {"target": "plain", "batch": -1}]
)
def test_options_of_another_target_are_refused(
    options: dict[str, Any], project: Path, tmp_path: Path
) -> None:
    with pytest.raises(TargetError):
        convert(project / DIGITS, tmp_path / "e", **options)
    assert not (tmp_path / "e").exists()


# --- verification ---------------------------------------------------------------------------------


def plain_export(*options: str) -> Path:
    assert run("convert", CHECKPOINT, "-o", "p", "--target", "plain", *options).exit_code == 0
    return Path("p")


@pytest.mark.parametrize("options", [(), ("--batch", "3"), ("--keep-functions",)])
@pytest.mark.usefixtures("folder")
def test_it_verifies(options: tuple[str, ...]) -> None:
    export = plain_export(*options)
    manifest = json.loads((export / "manifest.json").read_text())
    assert manifest["target"] == "plain"
    assert manifest.get("batch", 0) == (3 if "--batch" in options else 0)
    assert manifest.get("keep_functions", False) == ("--keep-functions" in options)
    found = document("verify", export, "--limit", "40", "--sides", "ort,oracle,packed")
    assert found["verdict"] == "PASS"
    assert found["weights"]["exact"] == found["weights"]["layers"] == 10
    assert found["levels"]["compared"] > 0
    assert found["accumulators"]["compared"] > 0


def one_weight(model: onnx.ModelProto) -> None:
    (tensor,) = (t for t in model.graph.initializer if t.name.startswith("layer2.0.conv2.levels_"))
    values = np.array(onnx.numpy_helper.to_array(tensor))
    values.flat[7] += 1
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def stated(model: onnx.ModelProto) -> None:
    (entry,) = (entry for entry in model.metadata_props if entry.key == "stated")
    entry.value = entry.value.replace('"denominator": 10', '"denominator": 11')


@pytest.mark.parametrize("edit", [one_weight, stated])
@pytest.mark.usefixtures("folder")
def test_a_fault_fails(edit: Any) -> None:
    export = plain_export()
    model = onnx.load(export / "model.onnx")
    before = serialise(model)
    edit(model)
    assert serialise(model) != before
    replace_file(export, ONNX_MODEL, serialise(model))
    result = run("verify", export, "--limit", "20")
    assert result.exit_code == 1, result.output
