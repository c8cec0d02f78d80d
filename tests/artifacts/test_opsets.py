"""`--opset`: models in older operator sets, and those that cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from apot_export.artifacts.onnx_model import build_integer_model, build_model
from apot_export.artifacts.onnx_model.opsets import OLDEST, lowest_opset
from apot_export.artifacts.onnx_model.probe import with_outputs
from apot_export.errors import TargetError
from apot_export.integer import lower
from apot_export.network import CodedNetwork
from apot_export.runtimes.onnx_runtime import open_session
from tests.support.commands import CHECKPOINT, document, run
from tests.support.networks import every_operation, random_images
from tests.support.onnx_values import model_of
from tests.support.random_coded_networks import plane_network, random_network


def built(network: CodedNetwork, **options: Any) -> onnx.ModelProto:
    return build_model(network, name="x", tool="t 1", metadata={}, **options)


def values_of(model: onnx.ModelProto, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    return open_session(with_outputs(model), "cpu").run_all(images)


@pytest.mark.parametrize("network", [every_operation(), plane_network()])
@pytest.mark.parametrize("keep_functions", [False, True])
def test_a_plain_model_of_an_old_operator_set_computes_the_same(
    network: CodedNetwork, keep_functions: bool
) -> None:
    images = random_images(network, 2)
    expected = values_of(model_of(network, "plain"), images)
    for opset in range(lowest_opset(model_of(network, "plain"))[0], 14):
        model = built(network, target="plain", opset=opset, keep_functions=keep_functions)
        onnx.checker.check_model(model, full_check=True)
        assert {item.version for item in model.opset_import if not item.domain} == {opset}
        found = values_of(model, images)
        assert found.keys() == expected.keys()
        for name, array in found.items():
            np.testing.assert_array_equal(array, expected[name], err_msg=name)


@pytest.mark.parametrize("network", [every_operation(), plane_network()])
@pytest.mark.parametrize("target", ["portable", "cpu", "cuda", "openvino", "plain"])
def test_one_that_is_too_old_is_refused_with_the_oldest_that_is_not(
    network: CodedNetwork, target: str
) -> None:
    lowest, operator = lowest_opset(built(network, target=target))
    assert lowest == 11 if target == "plain" else lowest > 11
    for opset in range(OLDEST, lowest):
        with pytest.raises(TargetError, match=f"--opset {lowest}") as raised:
            built(network, target=target, opset=opset)
        assert operator in str(raised.value)
    onnx.checker.check_model(built(network, target=target, opset=lowest), full_check=True)


def test_an_operator_set_is_that_of_operators_types_and_attributes() -> None:
    def lowest(text: str) -> tuple[int, str]:
        header = '<ir_version: 8, opset_import: ["": 18]> g '
        return lowest_opset(onnx.parser.parse_model(header + text))

    assert lowest("(float[2] x) => (float[2] y) { y = Relu(x) }") == (11, "Relu")
    assert lowest("(int32[2] x) => (int32[2] y) { y = Relu(x) }") == (14, "Relu")
    assert lowest("(float[2] x) => (int64[1] y) { y = Shape<start = 0>(x) }") == (15, "Shape")
    assert lowest("(float[2] x, int64[1] a) => (float y) { y = ReduceMax(x, a) }")[0] == 18
    # what is normalised where `axis` is left out is another axis since opset 13
    assert lowest("(float[2, 2, 2] x) => (float[2, 2, 2] y) { y = Softmax(x) }")[0] == 13


def test_integer_models_have_theirs() -> None:
    network = random_network(1)
    integer = lower(network, fraction_bits=8)
    options: dict[str, Any] = {"name": "x", "tool": "t 1", "metadata": {}, "plain": True}
    images = random_images(network, 2)
    usual = build_integer_model(network, integer, **options)
    older = build_integer_model(network, integer, **options, opset=13)
    assert (usual.opset_import[0].version, usual.ir_version) == (14, 7)
    onnx.checker.check_model(older, full_check=True)
    found = values_of(older, images)
    for name, array in values_of(usual, images).items():
        np.testing.assert_array_equal(found[name], array)
    with pytest.raises(TargetError, match="state --opset 13"):
        build_integer_model(network, integer, **options, opset=11)


@pytest.mark.usefixtures("folder")
def test_an_export_of_an_old_operator_set_verifies() -> None:
    options = ("--target", "plain", "--opset", "11")
    assert run("convert", CHECKPOINT, "-o", "old", *options).exit_code == 0
    model = onnx.load("old/model.onnx")
    assert (model.opset_import[0].version, model.ir_version) == (11, 6)
    assert json.loads(Path("old/manifest.json").read_text())["opset"] == 11
    assert document("verify", "old", "--limit", "40", "--sides", "ort,oracle")["verdict"] == "PASS"
    assert run("convert", "old", "-o", "new", "--target", "plain").exit_code == 0
    assert "opset" not in json.loads(Path("new/manifest.json").read_text())
    assert run("convert", CHECKPOINT, "-o", "direct", *options).exit_code == 0
    assert Path("old/model.onnx").read_bytes() == Path("direct/model.onnx").read_bytes()


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        (["--opset", "13"], "state --opset 18, or take --target plain"),
        (["--opset", "19"], "leave out --opset for operator set 18"),
        (["--opset", "15", "--target", "plain"], "leave out --opset for operator set 14"),
        (["--opset", "-1", "--target", "plain"], "leave out --opset for operator set 14"),
        (["--opset", "11", "--target", "plain", "--integer"], "state --opset 13"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_the_command_line_says_what_to_state(options: list[str], advice: str) -> None:
    found = run("convert", CHECKPOINT, "-o", "e", *options)
    assert found.exit_code == 2
    assert advice in " ".join(found.output.split())
    assert not Path("e").exists()
