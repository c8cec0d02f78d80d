"""The operations of format version 3, in both readers, on the vectors that FORMAT.md states."""

from __future__ import annotations

import json
from typing import Any, get_args

import numpy as np
import pytest

from apot_export.downstream import _operations as downstream
from apot_export.network import operations as op
from apot_export.network import oracle
from tests.support.format_vectors import Vector, floats, integers, vectors

Array = np.ndarray[Any, Any]
VECTORS = vectors("operation")
BY_NAME = {kind.__name__: kind for kind in get_args(op.Operation)}
_ROUNDED = ("Elementwise", "Resample")


def tensor(vector: Vector, shape: str, values: str) -> Array:
    return floats(vector[values]).reshape(integers(vector[shape]))


def read(vector: Vector) -> tuple[dict[str, Any], list[Array], Array]:
    """Return the attributes, the inputs and the result."""
    attributes: dict[str, Any] = json.loads(vector["attributes"][0])
    attributes |= {key: floats(vector[key]) for key in ("rows", "columns") if key in vector}
    inputs = [tensor(vector, "shape", "values")]
    if "second_shape" in vector:
        inputs.append(tensor(vector, "second_shape", "second_values"))
    return attributes, inputs, tensor(vector, "result_shape", "result")


def require_same(vector: Vector, attributes: dict[str, Any], got: Array, expected: Array) -> None:
    assert got.dtype == np.float32
    assert got.shape == expected.shape
    if vector["operation"][0] in _ROUNDED or attributes.get("function") == "mean":
        np.testing.assert_allclose(got, expected, rtol=1e-6)
    else:
        np.testing.assert_array_equal(got, expected)


def test_every_operation_of_version_3_has_vectors() -> None:
    named = {vector["operation"][0] for vector in VECTORS}
    assert named == {kind.__name__ for kind in get_args(op.SelfComputing)} | {"Add", "Concat"}
    functions = [json.loads(vector["attributes"][0]).get("function") for vector in VECTORS]
    assert {one for one in functions if one} == {*op.FUNCTIONS, "mean", "max"}


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["operation"][0] + v["attributes"][0])
def test_the_oracle_computes_a_vector(vector: Vector) -> None:
    attributes, inputs, expected = read(vector)
    stated = {key: tuple(v) if isinstance(v, list) else v for key, v in attributes.items()}
    operation = BY_NAME[vector["operation"][0]](**stated)
    require_same(vector, attributes, oracle.apply(operation, inputs), expected)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["operation"][0] + v["attributes"][0])
def test_the_second_reader_computes_a_vector(vector: Vector) -> None:
    attributes, inputs, expected = read(vector)
    node = downstream.Node(
        name="vector",
        operation=vector["operation"][0],
        inputs=("a", "b")[: len(inputs)],
        attributes=attributes,
        layer=None,
        operand=np.empty(0),
    )
    require_same(vector, attributes, downstream.RUN[node.operation](node, *inputs), expected)
