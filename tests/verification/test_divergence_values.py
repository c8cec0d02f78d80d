"""Faults of what an export computes: each fails, and its place and both values are named."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import nn

from apot_export.network import CodedLayer
from apot_export.original.quantization import Quantization
from apot_export.original.quantized_layers import LastLinear, QuantConv2d
from tests.support.divergences import (
    MIDDLE,
    QUANTIZATIONS,
    SHAPE,
    UNIFORM,
    Edit,
    body,
    coded,
    coded_bias,
    diverge,
    found,
    requantized,
    sample,
    small,
)
from tests.support.workshop import change_node

# --- activation levels ----------------------------------------------------------------------------


@pytest.mark.parametrize("family", QUANTIZATIONS)
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_other_activation_bits(family: str, bits: int) -> None:
    original = small(QUANTIZATIONS[family])
    if original.middle.quantization.activation_bits == bits:
        bits = 5 if family == "apot-v1" else bits % 3 + 2
    wrong = coded(requantized(original, activation_bits=bits))
    divergence = found(diverge(original, both=wrong))
    layer = wrong.layers[MIDDLE]
    assert isinstance(layer, CodedLayer)
    assert layer.activation is not None
    assert (divergence.layer, divergence.kind, divergence.place) == (MIDDLE, "constants", ())
    step = 2.37 / original.middle.activation_denominator()
    assert divergence.original == pytest.approx(step, rel=1e-6)
    assert divergence.export == layer.activation.step
    assert divergence.cause == "wrong bits"
    assert f"{bits} bits" in divergence.evidence
    divergence = found(diverge(original, model=wrong))
    assert (divergence.layer, divergence.kind) == (MIDDLE, "levels")
    assert (divergence.channel, divergence.cause) == (divergence.place[1], None)


class Tied(nn.Module):
    """A network whose quantized layer reads the image itself, so that an image can hit ties."""

    def __init__(self, quantization: Quantization) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.relu = nn.ReLU()
        self.middle = QuantConv2d(3, 4, 3, padding=1, bias=False, quantization=quantization)
        self.flatten = nn.Flatten()
        self.fc = LastLinear(4 * 36, 10)
        # Steps of 1/8 (uniform, 15 of them) are exact in float32, and so are their middles.
        self.middle.act_alpha.data.fill_(15 / 8)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc(self.flatten(self.middle(self.relu(image))))
        return logits


CEILING = body(
    "QuantizeActivation",
    "image_index = Cast <to: int = 6> (scaled)",
    "up = Ceil (scaled) unit = Constant <value_float: float = 1.0> () down = Sub (up, unit) "
    "whole = Max (down, zero) image_index = Cast <to: int = 6> (whole)",
)
"""Every decision point belongs to the level below it instead of that above."""


def test_ties_of_activations() -> None:
    original = Tied(UNIFORM).eval().requires_grad_(requires_grad=False)
    images = sample(4)
    assert diverge(original, images=images) is None
    assert diverge(original, images=images, edit=CEILING) is None  # no value is a tie
    images.reshape(-1)[7:200] = np.resize((np.arange(14) + 0.5) / 8, 193)
    # A right export may break a tie of floats as its format says, not as the original does.
    assert diverge(original, images=images) is None
    divergence = found(diverge(original, images=images, edit=CEILING))
    assert (divergence.layer, divergence.kind) == (MIDDLE, "levels")
    assert "differ between packed file and ONNX model" in divergence.evidence
    tie = images[divergence.place] * 8
    assert tie % 1 == 0.5
    assert divergence.original == np.rint(tie)
    assert divergence.export is not None
    assert abs(divergence.export - tie) == 0.5
    assert divergence.channel == divergence.place[1]


def own_table(change: Callable[[Any], Any]) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        (shared,) = (t for t in model.graph.initializer if t.name.startswith("activation_levels"))
        shared.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(shared)), shared.name))

    return edit


def swapped(values: NDArray[Any]) -> NDArray[Any]:
    """Exchange the two largest levels."""
    *_, second, largest = np.unique(values)
    return np.select([values == second, values == largest], [largest, second], values)


@pytest.mark.parametrize("family", QUANTIZATIONS)
@pytest.mark.parametrize(
    "change", [swapped, lambda values: np.append(values[1:], values[-1])], ids=["swapped", "moved"]
)
def test_a_wrong_table(family: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    original = small(QUANTIZATIONS[family])
    divergence = found(diverge(original, edit=own_table(change)))
    assert (divergence.layer, divergence.kind) == (MIDDLE, "levels")
    assert divergence.cause is None, divergence.evidence
    assert divergence.original != divergence.export


# --- legacy divisor -------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["uniform", "uniform-v1"])
@pytest.mark.parametrize("was", [False, True])
def test_the_other_divisor(family: str, *, was: bool) -> None:
    quantization = dataclasses.replace(QUANTIZATIONS[family], legacy_divisor=was)
    original = small(quantization)
    other = requantized(original, legacy_divisor=not was)
    wrong = coded(other)
    assert diverge(original) is None
    divisors = tuple(net.middle.activation_denominator() for net in (original, other))
    divergence = found(diverge(original, both=wrong))
    assert (divergence.layer, divergence.kind) == (MIDDLE, "constants")
    steps = [2.37 / divisor for divisor in divisors]
    assert [divergence.original, divergence.export] == pytest.approx(steps, rel=1e-6)
    assert divergence.cause == "legacy divisor", divergence.evidence
    assert f"by {divisors[1]}, as" in divergence.evidence
    assert f"by {divisors[0]}" in divergence.evidence

    divergence = found(diverge(original, model=wrong))
    assert (divergence.layer, divergence.kind, divergence.cause) == ("bn2", "values", None)
    assert divergence.original is not None
    assert divergence.export is not None
    bias = coded_bias(original)[divergence.place[1]]
    scaled = divergence.export - bias, divergence.original - bias
    assert scaled[0] / scaled[1] == pytest.approx(divisors[0] / divisors[1], rel=1e-4)


def test_another_scale_is_no_divisor() -> None:
    """A scale that is off by another factor than the two divisors are apart."""
    original = small(UNIFORM)

    def edit(model: onnx.ModelProto) -> None:
        (scale,) = (t for t in model.graph.initializer if t.name == "bn2.scale")
        values = numpy_helper.to_array(scale) * np.float32(2)
        scale.CopyFrom(numpy_helper.from_array(values, scale.name))

    divergence = found(diverge(original, edit=edit))
    assert (divergence.layer, divergence.kind, divergence.cause) == ("bn2", "values", None)


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
    assert (divergence.layer, divergence.kind, divergence.cause) == ("flatten", "values", None)


def test_an_image_with_height_and_width_swapped() -> None:
    original = small(UNIFORM)

    def edit(model: onnx.ModelProto) -> None:
        (node,) = (node for node in model.graph.node if node.output[0] == "relu")
        node.output[0] = "upright"
        place = list(model.graph.node).index(node)
        moved = helper.make_node("Transpose", ["upright"], ["relu"], perm=[0, 1, 3, 2])
        model.graph.node.insert(place + 1, moved)

    divergence = found(diverge(original, edit=edit))
    assert (divergence.layer, divergence.kind, divergence.cause) == ("relu", "values", None)


@pytest.mark.parametrize(
    ("axis", "name", "value"),
    [(1, "first", "images"), (3, "first", "images"), (1, "fc", "flatten")],
)
def test_a_layer_that_reads_its_input_in_another_order(axis: int, name: str, value: str) -> None:
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
    assert (divergence.layer, divergence.kind, divergence.cause) == (name, "values", None)
    assert divergence.original != divergence.export


# --- other faults ------------------------------------------------------------------

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
def test_other_faults(fault: str) -> None:
    edit, layer, kind = UNKNOWN[fault]
    divergence = found(diverge(small(QUANTIZATIONS["apot-v1"]), edit=edit))
    assert (divergence.layer, divergence.kind, divergence.cause) == (layer, kind, None)
    assert "in the ONNX model" in divergence.evidence


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
