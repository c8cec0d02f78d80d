"""Faults of what an export computes: levels, sums and float values, and their probable causes."""

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

from apot_export.network import CodedLayer, ScaleBias
from apot_export.original.quantization import Quantization
from apot_export.original.quantized_layers import LastLinear, QuantConv2d
from tests.support.divergences import (
    MIDDLE,
    QUANTIZATIONS,
    UNIFORM,
    Edit,
    body,
    coded,
    diverge,
    found,
    requantized,
    sample,
    scale_of,
    small,
)

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
    assert divergence.channel == divergence.place[1]
    assert (divergence.cause, f"{bits} bits" in divergence.evidence) == ("wrong bits", True)


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
    assert divergence.cause == "tie rule", divergence.evidence
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
def test_a_wrong_table_has_no_known_cause(
    family: str, change: Callable[[NDArray[Any]], NDArray[Any]]
) -> None:
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
    assert (divergence.layer, divergence.kind) == ("bn2", "values")
    assert divergence.cause == "legacy divisor", divergence.evidence
    assert divergence.original is not None
    bias = float(coded_bias(original)[divergence.place[1]])
    ratio = (divergence.export or 0) - bias, divergence.original - bias
    assert ratio[0] / ratio[1] == pytest.approx(divisors[0] / divisors[1], rel=1e-4)


def coded_bias(network: Any) -> NDArray[np.floating]:
    (node,) = (node for node in coded(network).nodes if node.name == "bn2")
    assert isinstance(node.operation, ScaleBias)
    return node.operation.bias


def test_another_scale_is_no_divisor() -> None:
    """A scale that is off by another factor than the two divisors are apart."""
    original = small(UNIFORM)

    def edit(model: onnx.ModelProto) -> None:
        (scale,) = (t for t in model.graph.initializer if t.name == "bn2.scale")
        values = numpy_helper.to_array(scale) * np.float32(2)
        scale.CopyFrom(numpy_helper.from_array(values, scale.name))

    divergence = found(diverge(original, edit=edit))
    assert (divergence.layer, divergence.kind, divergence.cause) == ("bn2", "values", None)


# --- fused batch-norm -----------------------------------------------------------------------------


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
    original = small(QUANTIZATIONS[family])
    divergence = found(diverge(original, edit=folding(original, f"{MIDDLE}.weight")))
    assert (divergence.layer, divergence.kind) == (MIDDLE, "weights")
    assert divergence.cause == "fused batch-norm", divergence.evidence
    assert "and the step of its input" in divergence.evidence
    weights = original.middle.quantized_weight().numpy()
    assert divergence.original == weights[divergence.place]
    factor = scale_of(original.bn2)[divergence.place[0], 0, 0, 0] * 2.37
    factor /= original.middle.activation_denominator()
    assert divergence.export == pytest.approx(divergence.original * factor, rel=1e-5)


@pytest.mark.parametrize("family", QUANTIZATIONS)
def test_a_quantized_layer_whose_sums_are_gone(family: str) -> None:
    original = small(QUANTIZATIONS[family])
    divergence = found(diverge(original, edit=folding(original, "folded")))
    assert (divergence.layer, divergence.kind, divergence.place) == (MIDDLE, "weights", ())
    assert divergence.cause == "fused batch-norm", divergence.evidence
    assert "no sums of the layer" in divergence.evidence


def test_a_layer_that_is_gone_and_computed_wrongly_is_not_fused() -> None:
    original = small(UNIFORM)
    other = small(UNIFORM, seed=1)
    divergence = found(diverge(original, edit=folding(other, "folded")))
    assert (divergence.layer, divergence.kind, divergence.cause) == (MIDDLE, "weights", None)
