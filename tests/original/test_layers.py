"""The original semantics in PyTorch, and the exporter's encoding of the same layers."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from apot_export.encoding.capture import capture
from apot_export.encoding.weights import encode_layer
from apot_export.errors import WeightError
from apot_export.network import ActivationQuantizer, CodedLayer, SourceLayer, WeightQuantizer
from apot_export.network.codebook import apot, apot_candidates, distinct_levels
from apot_export.network.oracle import quantize_activation
from apot_export.original.level_sets import _sums, activation_level_set, nearest_level
from apot_export.original.quantization import Quantization
from apot_export.original.quantized_layers import FirstConv2d, LastLinear, QuantConv2d

FAMILIES = ("apot-v1", "apot-v2")
METHODS = ("apot", "uniform")
BITS = (2, 3, 4, 5, 6)
KINDS = [
    Quantization(family=family, weight_bits=bits, activation_bits=bits, method=method)
    for family, method, bits in itertools.product(FAMILIES, METHODS, BITS)
]
Floats = NDArray[np.float32]

kinds = st.sampled_from(KINDS)
seeds = st.integers(0, 2**32 - 1)
signs = st.sampled_from((1, -1))


def additive_level_set(bits: int) -> torch.Tensor:
    kind = Quantization(family="apot-v2", weight_bits=bits, activation_bits=bits)
    levels = activation_level_set(kind)
    assert levels is not None
    return levels


def floats(*values: float) -> Floats:
    return np.array(values, dtype=np.float32)


def convolution(kind: Quantization, weight: Floats, alpha: float) -> QuantConv2d:
    """Return a quantized 1 x 1 convolution of one input channel."""
    module = QuantConv2d(1, weight.size, 1, quantization=kind)
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(weight.reshape(-1, 1, 1, 1)))
        module.weight_alpha.fill_(alpha)
    return module


def encoded(module: nn.Module) -> CodedLayer:
    source = capture(nn.Sequential(module), (1, 2, 2)).layers["0"]
    layer = encode_layer(source)
    assert isinstance(layer, CodedLayer)
    return layer


def neighbours(values: Floats, reach: int) -> Floats:
    """Return positive floats with their `reach` neighbours on either side."""
    offsets = np.arange(-reach, reach + 1, dtype=np.int32)
    near = values.astype(np.float32).view(np.int32)[:, None] + offsets
    return near.reshape(-1).view(np.float32)


# --- level sets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_level_set_has_the_order_that_decides_ties(bits: int) -> None:
    levels = additive_level_set(bits).numpy() * apot(bits, signed=False).denominator
    assert tuple(np.rint(levels).astype(int).tolist()) == apot_candidates(bits)
    assert np.abs(levels - np.rint(levels)).max() < 1e-5


@pytest.mark.parametrize("bits", BITS)
def test_level_set_has_the_codebooks_values(bits: int) -> None:
    book = apot(bits, signed=False)
    levels = additive_level_set(bits).numpy()
    assert levels.dtype == np.float32
    assert levels.shape == (1 << bits,)
    integers = np.sort(np.rint(levels * book.denominator))
    np.testing.assert_array_equal(integers, distinct_levels(book))
    np.testing.assert_allclose(np.sort(levels), integers / book.denominator, rtol=2e-7)


def test_nearest_level_takes_the_first_of_equals() -> None:
    order = torch.tensor([0.0, 1.0, 0.5])
    values = torch.tensor([[0.25, 0.75], [0.2500001, 0.7499999]])
    expected = [[0.0, 1.0], [0.5, 0.5]]
    assert nearest_level(values, order).tolist() == expected


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("method", ["apot", "pot"])
def test_nearest_level_is_the_first_of_least_distance_in_float32(method: str, bits: int) -> None:
    levels = _sums(bits, method)
    for order in (levels, levels.mul(1.0 / levels.max()), levels.flip(0)):
        ordered = np.sort(order.numpy())
        decisions = neighbours((ordered[1:] + ordered[:-1]) / 2, 6)
        values = np.concatenate([decisions, ordered, floats(-1e30, -0.5, -0.0, 1e-40)])
        distances = np.abs(values[:, None] - order.numpy())
        expected = np.where(values < 0, ordered[0], order.numpy()[distances.argmin(axis=1)])
        got = nearest_level(torch.from_numpy(values), order).numpy()
        np.testing.assert_array_equal(got, expected)


# --- weights --------------------------------------------------------------------------------------


@given(kind=kinds, seed=seeds, count=st.integers(2, 200), alpha=st.floats(0.125, 8), sign=signs)
def test_encoding_normalised_weights(
    kind: Quantization, seed: int, count: int, alpha: float, sign: int
) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.normal(scale=rng.uniform(1e-3, 10), size=count).astype(np.float32)
    weight[rng.random(count) < 0.2] = 0
    module = convolution(kind, weight, sign * alpha)
    if weight.std() > 0:
        expected = module.quantized_weight().detach().numpy()
        assert encoded(module).weights().tobytes() == expected.tobytes()


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("alpha", [1, 0.7, 3.3, -1.915, 1.5e-5, -2e4])
def test_encoding_at_and_around_every_tie(kind: Quantization, alpha: float) -> None:
    if kind.method == "apot" and kind.weight_bits > 2:
        levels = np.sort(additive_level_set(kind.weight_bits - 1).numpy())
    else:
        steps = 2 ** (kind.weight_bits - 1) - 1
        levels = np.arange(steps + 1, dtype=np.float32) / np.float32(steps)
    threshold = np.float32(abs(alpha))
    ties = neighbours((levels[1:] + levels[:-1]) / 2 * threshold, 4)
    ends = neighbours(levels[1:] * threshold, 2)
    beyond = floats(threshold * 1.001, threshold * 1000)
    tiny = floats(1e-37, 1e-30)
    magnitudes = np.concatenate([ties, ends, beyond, tiny])
    kind = replace(kind, normalize_weights=False)
    module = convolution(kind, np.concatenate([magnitudes, -magnitudes]), alpha)
    expected = module.quantized_weight().detach().numpy()
    got = encoded(module).weights()
    np.testing.assert_array_equal(got, expected)
    assert got.tobytes() == expected.tobytes()


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("alpha", [3.3, -3.3])
def test_encoding_zeros(kind: Quantization, alpha: float) -> None:
    """Zeros of either sign, and weights that the threshold takes below the smallest float."""
    kind = replace(kind, normalize_weights=False)
    module = convolution(kind, floats(1, -1, 0, -0.0, 1e-45, -1e-45), alpha)
    layer, expected = encoded(module), module.quantized_weight().detach().numpy()
    assert layer.levels().reshape(-1)[2:].tolist() == [0, 0, 0, 0]
    assert layer.weights().tobytes() == expected.tobytes()


@given(kind=kinds, seed=seeds, alpha=st.floats(0.125, 8))
def test_a_negative_threshold_means_its_magnitude(
    kind: Quantization, seed: int, alpha: float
) -> None:
    weight = np.random.default_rng(seed).normal(size=50).astype(np.float32)
    layers = [encoded(convolution(kind, weight, sign * alpha)) for sign in (1, -1)]
    np.testing.assert_array_equal(layers[0].weights(), layers[1].weights())
    assert layers[0].step == layers[1].step > 0
    assert layers[0].alpha == -float(np.float32(-alpha)) == -(layers[1].alpha or 0)


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_every_level_is_its_own_nearest(bits: int) -> None:
    book = apot(bits, signed=True)
    rule = WeightQuantizer(
        codebook=book, alpha=np.float32(3), rule="nearest", candidates=apot_candidates(bits)
    )
    levels = distinct_levels(book).reshape(1, -1)
    weight = (levels * 3.0 / book.denominator).astype(np.float32)
    layer = encode_layer(SourceLayer(name="x", weight=weight, quantizer=rule))
    assert isinstance(layer, CodedLayer)
    np.testing.assert_array_equal(layer.levels(), levels)


# --- first and last layers ------------------------------------------------------------------------


@given(seed=seeds, count=st.integers(1, 300), skew=st.floats(-3, 3))
def test_encoding_8_bit_layers(seed: int, count: int, skew: float) -> None:
    weight = (np.random.default_rng(seed).normal(size=count) + skew).astype(np.float32)
    halves = np.arange(-140.5, 127) / 127 * weight.max()
    for values in (weight, np.append(halves.astype(np.float32), weight.max())):
        linear, first = LastLinear(values.size, 1), FirstConv2d(values.size, 1, 1, bias=False)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(values.reshape(1, -1)))
            first.weight.copy_(torch.from_numpy(values.reshape(1, -1, 1, 1)))
        flat = capture(nn.Sequential(nn.Flatten(), linear), (values.size, 1, 1)).layers["1"]
        conv = capture(nn.Sequential(first), (values.size, 1, 1)).layers["0"]
        for source, module in ((flat, linear), (conv, first)):
            expected = module.quantized_weight().detach().numpy()
            try:
                layer = encode_layer(source)
            except WeightError:
                assert np.abs(expected / values.max() * 127).max() > 2**15 - 1
                continue
            assert isinstance(layer, CodedLayer)
            assert layer.weights().tobytes() == expected.tobytes()
            products = layer.levels() * layer.step
            np.testing.assert_allclose(products, expected, rtol=4e-7)


# --- activations ----------------------------------------------------------------------------------


@given(kind=kinds, seed=seeds, alpha=st.floats(2**-10, 2**10))
def test_activation_table_against_the_original(kind: Quantization, seed: int, alpha: float) -> None:
    module = convolution(kind, floats(1, -1), 1.0)
    with torch.no_grad():
        module.act_alpha.fill_(alpha)
    quantizer = capture(nn.Sequential(module), (1, 2, 2)).layers["0"].activation
    assert quantizer is not None
    assert quantizer.alpha == np.float32(alpha)
    levels = distinct_levels(quantizer.codebook).astype(np.float64)
    points = (levels[1:] + levels[:-1]) / 2 * quantizer.step
    lowest = 0.0 if kind.method == "uniform" and kind.family == "apot-v1" else -alpha
    rng = np.random.default_rng(seed)
    values = np.concatenate(
        [
            rng.uniform(lowest, 1.5 * alpha, 500),
            points * (1 + 1e-6),
            points * (1 - 1e-6),
            levels * quantizer.step,
            [0, alpha, 1e30],
        ]
    ).astype(np.float32)
    expected = module.quantized_input(torch.from_numpy(values)).detach().numpy()
    got = quantize_activation(values, quantizer)
    np.testing.assert_array_equal(got, np.rint(expected / quantizer.step))
    np.testing.assert_allclose(got * quantizer.step, expected, rtol=4e-7)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_activations_next_to_a_decision_point_take_one_of_its_two_levels(
    kind: Quantization,
) -> None:
    module = convolution(kind, floats(1, -1), 1.0)
    quantizer = capture(nn.Sequential(module), (1, 2, 2)).layers["0"].activation
    assert isinstance(quantizer, ActivationQuantizer)
    levels = distinct_levels(quantizer.codebook)
    points = ((levels[1:] + levels[:-1]) / 2 * quantizer.step).astype(np.float32)
    values = neighbours(points, 3)
    expected = module.quantized_input(torch.from_numpy(values)).detach().numpy()
    below, above = np.repeat(levels[:-1], 7), np.repeat(levels[1:], 7)
    for side in (np.rint(expected / quantizer.step), quantize_activation(values, quantizer)):
        assert ((side == below) | (side == above)).all()


def test_only_the_first_familys_uniform_inputs_may_be_negative() -> None:
    values = torch.tensor([-8.0, -0.1, 3.0])
    for kind in KINDS:
        quantized = convolution(kind, floats(1, -1), 1.0).quantized_input(values)
        negative = kind.family == "apot-v1" and kind.method == "uniform"
        assert bool((quantized < 0).any()) == negative
