"""Factors of an export that are folded into weights, or rounded: each fails, and is named."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

from apot_export.network import CodedLayer
from tests.support.divergences import (
    MIDDLE,
    QUANTIZATIONS,
    UNIFORM,
    Edit,
    body,
    coded,
    coded_bias,
    diverge,
    found,
    scale_of,
    small,
)

# --- batch-norms that were folded into weights ----------------------------------------------------


def folding(network: Any, name: str) -> Edit:
    """Replace an integer convolution and its scale by one of float weights under a name."""

    def edit(model: onnx.ModelProto) -> None:
        graph = model.graph
        nodes = {node.output[0]: node for node in graph.node}
        sums, scaled = nodes[f"{MIDDLE}.sums"], nodes["bn2"]
        layer = network.middle
        step = layer.act_alpha / layer.activation_denominator()
        weights = layer.quantized_weight().numpy() * scale_of(network.bn2) * float(step)
        bias = coded_bias(network).astype(np.float32)
        graph.initializer.extend(
            numpy_helper.from_array(numbers.astype(np.float32), called)
            for numbers, called in ((weights, name), (bias, "folded_bias"))
        )
        cast = helper.make_node("Cast", [sums.input[0]], ["folded_levels"], to=1)
        inputs = ["folded_levels", name, "folded_bias"]
        conv = helper.make_node("Conv", inputs, ["bn2"], name="bn2", pads=[1, 1, 1, 1])
        place = list(graph.node).index(scaled)
        decoder = next(n for n in graph.node if n.output[0] == sums.input[1])
        for node in (sums, scaled, decoder):
            graph.node.remove(node)
        for node in (conv, cast):
            graph.node.insert(place - 2, node)
        for value in [v for v in graph.value_info if v.name in (sums.output[0], sums.input[1])]:
            graph.value_info.remove(value)

    return edit


@pytest.mark.parametrize("family", QUANTIZATIONS)
def test_a_batch_norm_in_the_float_weights_of_a_quantized_layer(family: str) -> None:
    """The integers of the packed file are what the model's weights are held to."""
    original = small(QUANTIZATIONS[family])
    divergence = found(diverge(original, edit=folding(original, f"{MIDDLE}.weight")))
    assert (divergence.layer, divergence.kind, divergence.cause) == (MIDDLE, "weights", None)
    layer = coded(original).layers[MIDDLE]
    assert isinstance(layer, CodedLayer)
    assert divergence.original == layer.levels()[divergence.place]
    factor = scale_of(original.bn2)[divergence.place[0], 0, 0, 0] * 2.37
    factor /= original.middle.activation_denominator()
    folded = layer.weights()[divergence.place] * factor
    assert divergence.export == pytest.approx(folded, rel=1e-5)
    assert "in the ONNX model" in divergence.evidence


def test_a_quantized_layer_whose_sums_are_gone() -> None:
    original = small(UNIFORM)
    divergence = found(diverge(original, edit=folding(original, "folded")))
    assert (divergence.layer, divergence.kind, divergence.place) == (MIDDLE, "weights", ())
    assert (divergence.original, divergence.export, divergence.cause) == (None, None, None)
    assert "missing from the ONNX model" in divergence.evidence


# --- factors rounded as TF32 does -----------------------------------------------------------------

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
    assert (divergence.layer, divergence.kind, divergence.cause) == (name, "values", None)
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
    assert (divergence.layer, divergence.kind, divergence.cause) == (name, "values", None)


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
