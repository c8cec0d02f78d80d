"""ONNX models: well formed, with provenance, and exactly the oracle's integers."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from apot_export.artifacts.onnx_model import DOMAIN, OPSET, serialise
from apot_export.artifacts.onnx_model.functions import operator_of
from apot_export.artifacts.onnx_model.lowering import TARGETS
from apot_export.artifacts.packed import load_packed
from apot_export.conversion.convert import convert
from apot_export.network import CodedLayer, CodedNetwork, FloatLayer, Linear, oracle
from apot_export.network.bounds import FLOAT32_EXACT, prove
from apot_export.network.codebook import Codebook
from tests.support.networks import every_operation, network_of, random_images, small_network
from tests.support.onnx_values import assert_integers_are_the_oracles, model_of, run_all, sessions
from tests.support.random_coded_networks import plane_network
from tests.support.workshop import DIGITS


@pytest.fixture(scope="module")
def digits(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx") / "digits"
    return convert(project / DIGITS, folder).path


# --- form -----------------------------------------------------------------------------------------


@pytest.fixture(params=["digits", "every operation"], scope="module")
def model(request: pytest.FixtureRequest, digits: Path) -> onnx.ModelProto:
    if request.param == "digits":
        return onnx.load(digits / "model.onnx")
    return model_of(every_operation())


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("network", [every_operation(), plane_network(), small_network()])
def test_checker_and_shape_inference_accept_the_model(network: CodedNetwork, target: str) -> None:
    model = model_of(network, target)
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(
        model, strict_mode=True, check_type=True, data_prop=True
    )
    assert inferred.graph.output == model.graph.output


def test_versions_are_old_enough_for_common_runtimes(model: onnx.ModelProto) -> None:
    assert model.ir_version == 8
    assert {(item.domain, item.version) for item in model.opset_import} == {("", 18), (DOMAIN, 1)}
    assert OPSET == 18
    names = [function.name for function in model.functions]
    assert len(set(names)) == len(names)  # runtimes before 2026 know no overloads
    assert not any(function.overload for function in model.functions)
    assert not any(node.overload for node in model.graph.node)


def test_constants_are_tensors(model: onnx.ModelProto) -> None:
    """Some runtimes know `value_ints` and its like not at all."""
    nodes = [node for function in model.functions for node in function.node]
    constants = [node for node in nodes if node.op_type == "Constant"]
    assert constants
    assert {item.name for node in constants for item in node.attribute} == {"value"}


def test_a_network_without_codes_imports_no_domain() -> None:
    plain = network_of(
        [FloatLayer(name="x", stored=np.ones((2, 3), dtype=np.float32))],
        [("logits", Linear(layer="x"), "image")],
        (3,),
    )
    model = model_of(plain)
    assert [(item.domain, item.version) for item in model.opset_import] == [("", OPSET)]


def test_meaning_is_in_apot_nodes_and_bodies_are_standard(model: onnx.ModelProto) -> None:
    bodies = {function.name: function for function in model.functions}
    for node in model.graph.node:
        if node.domain == DOMAIN:
            assert node.op_type in bodies
        else:
            assert node.domain == ""
            assert onnx.defs.has(node.op_type, OPSET, "")
    used = {node.op_type for node in model.graph.node if node.domain == DOMAIN}
    assert used == set(bodies)
    for function in bodies.values():
        assert function.domain == DOMAIN
        assert [(item.domain, item.version) for item in function.opset_import] == [("", OPSET)]
        for node in function.node:
            assert node.domain == ""
            assert onnx.defs.has(node.op_type, OPSET, "")


def test_attributes_state_the_codebooks(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if operator_of(node) not in {"DecodeWeights", "QuantizeActivation"}:
            continue
        values = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        flat, tables = list(values["digit_tables"]), []
        for size in values["digit_table_sizes"]:
            tables.append(tuple(flat[:size]))
            flat = flat[size:]
        signed = bool(values.get("signed", False))
        book = Codebook(tables=tuple(tables), denominator=values["denominator"], signed=signed)
        assert not flat
        assert book.bits == values["bits"]
        if node.op_type == "DecodeWeights":
            (table,) = (item for item in model.graph.initializer if item.name == node.input[4])
            np.testing.assert_array_equal(onnx.numpy_helper.to_array(table), book.levels)


def test_provenance_is_in_the_metadata(digits: Path, project: Path) -> None:
    model = onnx.load(digits / "model.onnx")
    properties = {item.key: item.value for item in model.metadata_props}
    provenance = json.loads(properties["apot_export"])
    checkpoint = (project / DIGITS).read_bytes()
    assert provenance["checkpoint_sha256"] == hashlib.sha256(checkpoint).hexdigest()
    assert (provenance["family"], provenance["choices"]) == ("apot-v1", {"bits": 4})
    assert f"{model.producer_name} {model.producer_version}" == provenance["tool"]
    bounds = [proof.bound for proof in prove(load_packed(digits).network).values()]
    assert int(properties["largest_accumulator_bound"]) == max(bounds) < FLOAT32_EXACT


def test_same_network_same_bytes() -> None:
    assert serialise(model_of(every_operation())) == serialise(model_of(every_operation()))


def test_codes_are_stored_packed(digits: Path) -> None:
    model = onnx.load(digits / "model.onnx")
    stored = {item.name: len(item.raw_data) for item in model.graph.initializer}
    for name, layer in load_packed(digits).layers.items():
        assert isinstance(layer, CodedLayer)
        filling = stored[f"{name}.codes"] - math.ceil(layer.codes.size * layer.codebook.bits / 8)
        assert 0 <= filling < layer.codebook.bits
    assert sum(stored.values()) < 1.4 * sum(
        layer.packed.size
        for layer in load_packed(digits).layers.values()
        if isinstance(layer, CodedLayer)
    )


# --- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_every_integer_is_the_oracles(batch: int) -> None:
    network = every_operation()
    images = random_images(network, batch)
    assert assert_integers_are_the_oracles(network, images) == 4 * batch * (
        144 + 252 + 252 + 80 + 32 + 7
    )
    logits = [run_all(session, images)["logits"] for session in sessions(model_of(network), (1, 2))]
    for found in logits:
        assert found.shape == (batch, 4)
        np.testing.assert_allclose(found, oracle.run(network, images), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_every_integer_of_the_digits_network_is_the_oracles(digits: Path, batch: int) -> None:
    network = load_packed(digits).network
    images = np.abs(random_images(network, batch))
    assert assert_integers_are_the_oracles(network, images) > 10_000 * batch
    session = onnxruntime.InferenceSession(
        digits / "model.onnx", providers=["CPUExecutionProvider"]
    )
    (logits,) = session.run(None, {"images": images})
    np.testing.assert_allclose(logits, oracle.run(network, images), rtol=1e-4, atol=1e-3)
