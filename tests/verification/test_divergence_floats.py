"""TF32, reordered values, and faults of values that have no known cause."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper, parser

from apot_export.verification.diagnosis.causes_tf32 import nearest_away, nearest_even, truncated
from tests.support.divergences import (
    MIDDLE,
    QUANTIZATIONS,
    SHAPE,
    UNIFORM,
    Edit,
    body,
    coded,
    diverge,
    found,
    small,
)
from tests.support.workshop import change_node

# --- TF32 -----------------------------------------------------------------------------------------

SPLIT = """
    factor = Constant <value_float: float = 8193.0> ()
    large_{0} = Mul ({0}, factor)
    rest_{0} = Sub (large_{0}, {0})
    rounded_{0} = Sub (large_{0}, rest_{0})
"""
"""Veltkamp's splitting: the upper 11 bits of a float32, rounded to nearest."""


@pytest.mark.parametrize("name", ["first", "fc"])
def test_tf32(name: str) -> None:
    original = small(UNIFORM)
    operator = {"first": "IntegerConv", "fc": "IntegerGemm"}[name]
    rounding = SPLIT.format("x")

    def edit(model: onnx.ModelProto) -> None:
        for function in model.functions:
            if function.name == operator:
                text = onnx.printer.to_text(function).replace("(x, w)", "(rounded_x, w)")
                head, brace, rest = text.partition("{\n")
                made = parser.parse_function(head + brace + rounding + rest)
                function.CopyFrom(made)

    divergence = found(diverge(original, edit=edit))
    assert (divergence.layer, divergence.kind, divergence.cause) == (name, "values", "TF32")
    assert "ties to even" in divergence.evidence
    assert divergence.channel == divergence.place[1]
    assert divergence.export == pytest.approx(divergence.original, rel=0.05, abs=0.5)
    assert divergence.export != divergence.original


@pytest.mark.parametrize("name", ["first", "fc"])
def test_tf32_of_float_weights(name: str) -> None:
    """Both operands of a float layer are rounded."""
    original = small(None)

    def edit(model: onnx.ModelProto) -> None:
        (node,) = (node for node in model.graph.node if node.output[0] == f"{name}.sums")
        place = list(model.graph.node).index(node)
        model.graph.initializer.append(
            numpy_helper.from_array(np.array(8193, dtype=np.float32), "factor")
        )
        for operand, source in enumerate(list(node.input)):
            large, rest, rounded = (f"{part}_{operand}" for part in ("large", "rest", "rounded"))
            made = [
                helper.make_node("Mul", [source, "factor"], [large]),
                helper.make_node("Sub", [large, source], [rest]),
                helper.make_node("Sub", [large, rest], [rounded]),
            ]
            for step in reversed(made):
                model.graph.node.insert(place, step)
            node = next(n for n in model.graph.node if n.output[0] == f"{name}.sums")
            node.input[operand] = rounded

    divergence = found(diverge(original, edit=edit))
    assert (divergence.layer, divergence.kind, divergence.cause) == (name, "values", "TF32")


def test_half_precision_is_not_tf32() -> None:
    """float16 has the same mantissa, but rounds the results as well."""
    edit = body(
        "ScaleBias",
        "scaled = Mul (values, scale)",
        """
        half = Cast <to: int = 10> (values)
        again = Cast <to: int = 1> (half)
        scaled = Mul (again, scale)
    """,
    )
    divergence = found(diverge(small(UNIFORM), edit=edit))
    assert (divergence.layer, divergence.kind, divergence.cause) == ("bn1", "values", None)


def test_roundings_to_tf32() -> None:
    """1 + 2^-11 is half-way between 1 and 1 + 2^-10; 1 + 3 * 2^-11 between that and the next."""
    ulp = 2.0**-10
    values = torch.tensor([1 + ulp / 2, 1 + 1.5 * ulp, -1 - ulp / 2, 1 + 0.6 * ulp, 3.0, 0.0])
    for rounding, expected in (
        (nearest_even, [1, 1 + 2 * ulp, -1, 1 + ulp, 3, 0]),
        (nearest_away, [1 + ulp, 1 + 2 * ulp, -1 - ulp, 1 + ulp, 3, 0]),
        (truncated, [1, 1 + ulp, -1, 1, 3, 0]),
    ):
        assert rounding(values).tolist() == expected


# --- the order of values --------------------------------------------------------------------------


def test_features_flattened_with_the_channels_last() -> None:
    original = small(UNIFORM)

    def edit(model: onnx.ModelProto) -> None:
        (node,) = (node for node in model.graph.node if node.op_type == "Flatten")
        place = list(model.graph.node).index(node)
        moved = helper.make_node("Transpose", [node.input[0]], ["moved"], perm=[0, 2, 3, 1])
        node.input[0] = "moved"
        model.graph.node.insert(place, moved)

    divergence = found(diverge(original, edit=edit))
    assert (divergence.layer, divergence.kind) == ("flatten", "values")
    assert divergence.cause == "layout", divergence.evidence
    assert "8 x 9" in divergence.evidence


def test_an_image_with_height_and_width_swapped() -> None:
    original = small(UNIFORM)

    def edit(model: onnx.ModelProto) -> None:
        (node,) = (node for node in model.graph.node if node.output[0] == "relu")
        node.output[0] = "upright"
        place = list(model.graph.node).index(node)
        moved = helper.make_node("Transpose", ["upright"], ["relu"], perm=[0, 1, 3, 2])
        model.graph.node.insert(place + 1, moved)

    divergence = found(diverge(original, edit=edit))
    assert (divergence.layer, divergence.cause) == ("relu", "layout")
    assert "CWH instead of CHW" in divergence.evidence


@pytest.mark.parametrize(
    ("axis", "name", "value", "said"),
    [
        (1, "first", "images", "reverse order along C"),
        (3, "first", "images", "reverse order along W"),
        (1, "fc", "flatten", "8 x 9 features transposed"),
    ],
)
def test_a_layer_that_reads_its_input_in_another_order(
    axis: int, name: str, value: str, said: str
) -> None:
    """As BGR instead of RGB: the weights are right, and so is the value that is read."""
    extent = SHAPE[axis - 1]
    order = np.arange(extent)[::-1]
    if value == "flatten":
        order = np.arange(72).reshape(8, 9).T.reshape(-1)

    def edit(model: onnx.ModelProto) -> None:
        indices = numpy_helper.from_array(np.ascontiguousarray(order), "indices")
        model.graph.initializer.append(indices)
        (node,) = (node for node in model.graph.node if node.output[0] == f"{name}.sums")
        assert node.input[0] == value
        node.input[0] = "moved"
        moved = helper.make_node("Gather", [value, "indices"], ["moved"], axis=axis)
        model.graph.node.insert(list(model.graph.node).index(node), moved)

    divergence = found(diverge(small(UNIFORM), edit=edit))
    assert (divergence.layer, divergence.kind) == (name, "values")
    assert divergence.cause == "layout", divergence.evidence
    assert said in divergence.evidence


# --- and what has no known cause ------------------------------------------------------------------

UNKNOWN: dict[str, tuple[Edit, str, str]] = {
    "no bias": (body("ScaleBias", "Add (scaled, bias)", "Identity (scaled)"), "bn1", "values"),
    "short sums": (
        body(
            "ShiftConv",
            "accumulators = Cast <to: int = 6> (exact)",
            "least = Constant <value_float: float = -128.0> () "
            "most = Constant <value_float: float = 127.0> () "
            "eight_bits = Clip (exact, least, most) "
            "accumulators = Cast <to: int = 6> (eight_bits)",
        ),
        MIDDLE,
        "integers",
    ),
}


@pytest.mark.parametrize("fault", UNKNOWN)
def test_other_faults_have_no_known_cause(fault: str) -> None:
    edit, layer, kind = UNKNOWN[fault]
    divergence = found(diverge(small(QUANTIZATIONS["apot-v1"]), edit=edit))
    assert (divergence.layer, divergence.kind, divergence.cause) == (layer, kind, None)
    assert "none of the 8 known causes fits" in divergence.evidence


def test_a_packed_file_alone_is_found() -> None:
    """What the model computes is right, and the packed file says something else."""
    original = small(QUANTIZATIONS["apot-v1"])
    right = coded(original)
    wrong = change_node(
        right, "bn2", lambda node: dataclasses.replace(node, scale=node.scale * np.float32(2))
    )
    divergence = found(diverge(original, packed=wrong))
    assert (divergence.layer, divergence.kind, divergence.cause) == ("bn2", "values", None)
    assert "in the packed file" in divergence.evidence
