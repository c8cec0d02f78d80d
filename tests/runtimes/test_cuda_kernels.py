"""Every node of an export has a kernel of CUDA that computes it exactly, by CUDA's own table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from apot_export.artifacts.onnx_model import build_integer_model, serialise
from apot_export.artifacts.onnx_model.lowering import CPU, TARGETS
from apot_export.artifacts.packed import load_packed
from apot_export.conversion.convert import convert
from apot_export.integer import lower
from apot_export.network import CodedNetwork
from tests.support.cuda_kernels import folded, kernels, rounded, without_kernel
from tests.support.networks import every_operation
from tests.support.onnx_values import model_of
from tests.support.random_coded_networks import (
    Recipe,
    multi_bit_network,
    network_of_recipe,
    plane_network,
    random_network,
)
from tests.support.workshop import DIGITS

RANDOM = range(6)
CPU_ALONE = {"MatMulInteger uint8", "Pad uint8", "Equal int64", "Mul int32", "Max uint8"}
"""What the bodies for CPUs have that CUDA has not: ONNX Runtime gives those nodes to the CPU."""


@pytest.fixture(scope="module")
def digits(project: Path, tmp_path_factory: pytest.TempPathFactory) -> CodedNetwork:
    export = convert(project / DIGITS, tmp_path_factory.mktemp("kernels") / "digits").path
    return load_packed(export).network


def networks(digits: CodedNetwork) -> list[CodedNetwork]:
    return [
        digits,
        every_operation(),
        plane_network(),
        multi_bit_network(0, 2, position_major=True),
        *map(random_network, RANDOM),
    ]


@pytest.mark.parametrize("target", [name for name in TARGETS if name != CPU])
def test_every_node_has_an_exact_kernel(target: str, digits: CodedNetwork, tmp_path: Path) -> None:
    for network in networks(digits):
        model = folded(serialise(model_of(network, target)), tmp_path)
        assert without_kernel(model) == set()
        assert rounded(model) == set()


def test_the_bodies_for_cpus_stay_there(digits: CodedNetwork, tmp_path: Path) -> None:
    model = folded(serialise(model_of(digits, CPU)), tmp_path)
    assert "MatMulInteger uint8" in without_kernel(model) <= CPU_ALONE
    assert rounded(model) == set()


@pytest.mark.parametrize("bits", [8, 20])
def test_every_node_of_integer_networks_has_an_exact_kernel(
    bits: int, digits: CodedNetwork, tmp_path: Path
) -> None:
    signs = multi_bit_network(2, 2, position_major=True)
    for network in (digits, network_of_recipe(Recipe(seed=1, gain=0.1)), signs):
        lowered = lower(network, fraction_bits=bits)
        built = build_integer_model(network, lowered, name="n", tool="test 1", metadata={})
        model = folded(serialise(built), tmp_path)
        assert without_kernel(model) == set()
        assert rounded(model) == set()
        kinds = {
            value.type.tensor_type.elem_type
            for value in (*model.graph.value_info, *model.graph.output)
        }
        assert kinds == {TensorProto.FLOAT, TensorProto.INT32}


# --- the check itself -----------------------------------------------------------------------------


def one_node(operator: str, kind: int) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info("x", kind, [2, 3])]
    names = ["x"]
    if operator == "ReduceSum":
        axes = onnx.numpy_helper.from_array(np.array([1], dtype=np.int64), "axes")
        names.append("axes")
    outputs = [helper.make_tensor_value_info("y", kind, None)]
    node = helper.make_node(operator, names, ["y"])
    graph = helper.make_graph([node], "one", inputs, outputs)
    if operator == "ReduceSum":
        graph.initializer.append(axes)
    opset = [helper.make_opsetid("", 21)]
    return onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=opset))


def test_a_node_without_a_kernel_is_found() -> None:
    assert without_kernel(one_node("Neg", TensorProto.FLOAT)) == set()
    assert without_kernel(one_node("Relu", TensorProto.INT32)) == {"Relu int32"}
    assert without_kernel(one_node("Sin", TensorProto.FLOAT)) == {"Sin float"}  # not in the table


def test_sums_of_integers_in_float32_are_found() -> None:
    assert rounded(one_node("ReduceSum", TensorProto.DOUBLE)) == set()
    assert rounded(one_node("ReduceSum", TensorProto.INT64)) == {"ReduceSum int64"}


def test_the_table_tells_opsets_and_types_apart() -> None:
    (first, *others) = kernels()["ReduceSum"]
    assert not others
    assert first.fits(13, {"T": "int64"})
    assert not first.fits(11, {"T": "int64"})
    assert not first.fits(13, {"T": "uint8"})
