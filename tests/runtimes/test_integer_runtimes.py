"""The integer model on runtimes that have neither int64 nor float64: the same integers."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, inliner
from onnx.reference import ReferenceEvaluator

from apot_export.artifacts.directory import INTEGER_MODEL
from apot_export.artifacts.onnx_model import build_integer_model, serialise
from apot_export.artifacts.onnx_model.probe import whole_integers, with_outputs
from apot_export.artifacts.packed import load_packed
from apot_export.conversion.convert import convert
from apot_export.conversion.integer_choices import IntegerChoices
from apot_export.integer import lower, run_integer
from apot_export.network import CodedNetwork
from apot_export.original.choices import Choices
from apot_export.runtimes.openvino_runtime import open_openvino
from tests.support.published import PUBLISHED
from tests.support.random_coded_networks import random_network
from tests.support.workshop import DIGITS

NAMES = ["digits", "cifar10_res20_2bit", "cifar10_res20_4bit", "alq_lenet5"]


@pytest.fixture(scope="module")
def _openvino() -> None:
    if importlib.util.find_spec("openvino") is None:
        if os.environ.get("CI"):
            pytest.fail("CI must have OpenVINO: pip install 'apot-export[openvino]'")
        pytest.skip("OpenVINO is not installed: pip install 'apot-export[openvino]'")


@pytest.fixture(scope="module", params=NAMES)
def export(
    request: pytest.FixtureRequest, project: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return an export with an integer network of 12 fraction bits."""
    name = request.param
    checkpoint, choices = project / DIGITS, None
    if name != "digits":
        folder = request.getfixturevalue("reference")
        checkpoint = folder / "checkpoints" / PUBLISHED[name].checkpoint
        choices = Choices(alpha_terms=3) if name == "alq_lenet5" else None
    return convert(
        checkpoint,
        tmp_path_factory.mktemp("integer") / name,
        choices=choices,
        integer=IntegerChoices(fraction_bits=12),
    ).path


def images_of(coded: CodedNetwork) -> NDArray[np.float32]:
    images = np.random.default_rng(0).normal(0, 1, (3, *coded.input_shape))
    return images.astype(np.float32)


def built(coded: CodedNetwork, bits: int) -> tuple[onnx.ModelProto, NDArray[Any]]:
    """Return a model with decoded weights, and the oracle's logits."""
    network = lower(coded, fraction_bits=bits)
    model = build_integer_model(coded, network, name="n", tool="test 1", metadata={}, plain=True)
    return model, run_integer(network, images_of(coded))


@pytest.mark.usefixtures("_openvino")
def test_openvino_computes_the_same(export: Path) -> None:
    coded = load_packed(export).network
    images, (model, logits) = images_of(coded), built(coded, 12)
    stored = onnx.load(export / INTEGER_MODEL)
    for variant in (stored, inliner.inline_local_functions(stored), model):
        found = open_openvino(serialise(variant)).run_all(images)["logits"]
        np.testing.assert_array_equal(found, logits)


def test_the_reference_evaluator_computes_the_same(export: Path) -> None:
    coded = load_packed(export).network
    model, logits = built(coded, 12)
    (result, *_) = ReferenceEvaluator(model).run(None, {"images": images_of(coded)})
    found = np.asarray(result)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, logits)


@pytest.mark.usefixtures("_openvino")
@pytest.mark.parametrize("seed", range(6))
def test_wide_integers_of_every_operation_are_the_same(seed: int) -> None:
    coded = random_network(seed)
    network = lower(coded, fraction_bits=14)
    model, _ = built(coded, 14)
    images = images_of(coded)
    seen: dict[str, NDArray[Any]] = {}
    run_integer(network, images, observe=seen.__setitem__)
    found = whole_integers(open_openvino(with_outputs(model)).run_all(images))
    for node in network.nodes:
        name = "logits" if node.name == network.output else node.name
        np.testing.assert_array_equal(found[name], seen[node.name], err_msg=node.name)


def test_nothing_wider_than_32_bits_is_computed_with(export: Path) -> None:
    """Constants of int64 are shapes, axes and places: all that the standard has for them."""
    coded = load_packed(export).network
    model, _ = built(coded, 20 if coded.input_shape[1] < 28 else 12)
    assert not model.functions
    assert [entry.domain for entry in model.opset_import] == [""]
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    values = (*inferred.graph.value_info, *inferred.graph.output)
    kinds = {value.type.tensor_type.elem_type for value in values}
    assert kinds == {TensorProto.FLOAT, TensorProto.INT32}
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert facts["requires"].startswith("float32")
