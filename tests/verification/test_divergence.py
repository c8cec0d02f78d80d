"""Faults of weights: the first divergence has the right place and values, and the planted cause."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from apot_export.artifacts.packed import load_packed
from apot_export.conversion.convert import convert
from apot_export.encoding.capture import capture
from apot_export.encoding.encode import encode_network
from apot_export.network import CodedLayer, CodedNetwork, FloatLayer
from apot_export.network.bitpack import pack
from apot_export.network.layers import MultiBitWeights
from apot_export.original.choices import Choices
from apot_export.original.published import load_original
from tests.support.divergences import (
    MIDDLE,
    QUANTIZATIONS,
    SHAPE,
    UNIFORM,
    Small,
    assert_weights,
    coded,
    coded_levels,
    diverge,
    found,
    requantized,
    sample,
    small,
)
from tests.support.workshop import DIGITS, change_layer

every_family = pytest.mark.parametrize("family", QUANTIZATIONS)


# --- nothing differs ------------------------------------------------------------------------------


@every_family
def test_a_right_export_has_no_divergence(family: str) -> None:
    for seed in range(3):
        assert diverge(small(QUANTIZATIONS[family], seed)) is None


def test_a_right_export_of_floats_has_no_divergence() -> None:
    assert diverge(small(None)) is None


def multi_bit(seed: int = 0) -> tuple[Any, CodedNetwork]:
    """Return a network whose middle layer is a sum of three scaled sign vectors, and its export."""
    rng = np.random.default_rng(seed)
    bases = rng.choice([-1, 1], (8, 8, 3, 9)).astype(np.int8)
    coordinates = rng.uniform(0.01, 0.3, (8, 8, 3)).astype(np.float32)
    weights = MultiBitWeights(
        bases=bases,
        coordinates=coordinates,
        mask=np.ones(coordinates.shape, dtype=np.bool_),
        position_major=False,
    )
    network = small(None, seed)
    sums = (bases * coordinates[..., None]).sum(axis=2, dtype=np.float32)
    network.middle.weight.data = torch.from_numpy(sums.reshape(8, 8, 3, 3))
    return network, encode_network(capture(network, SHAPE, {MIDDLE: weights}))


def test_multi_bit_weights() -> None:
    network, right = multi_bit()
    assert diverge(network, both=right) is None
    other = copy.deepcopy(network)
    other.middle.weight.data = network.middle.weight.transpose(2, 3).contiguous()
    divergence = found(diverge(other, both=right))
    assert (divergence.layer, divergence.kind, divergence.cause) == (MIDDLE, "weights", None)
    place = divergence.place
    sums = other.middle.weight.numpy()[place], network.middle.weight.numpy()[place]
    assert (divergence.original, divergence.export) == pytest.approx(sums, abs=1e-6)


# --- wrong bits -----------------------------------------------------------------------------------


@every_family
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_other_weight_bits(family: str, bits: int) -> None:
    original = small(QUANTIZATIONS[family])
    changes: dict[str, Any] = {"weight_bits": bits, "grid": "zero"}
    if original.middle.quantization.weight_bits == bits:
        changes = {"weight_bits": bits % 3 + 2}
    wrong = coded(requantized(original, **changes))
    right = coded(original)
    for divergence in (diverge(original, both=wrong), diverge(original, packed=wrong)):
        evidence = assert_weights(divergence, right, wrong, "wrong bits")
        assert f"{changes['weight_bits']} bits" in evidence
    assert "ONNX model" not in evidence
    divergence = found(diverge(original, model=wrong))
    assert (divergence.layer, divergence.kind, divergence.cause) == (MIDDLE, "weights", None)
    assert divergence.original == coded_levels(right)[divergence.place]
    assert divergence.export == coded_levels(wrong)[divergence.place]


def test_another_level_set_and_another_grid() -> None:
    for family, changes, named in (
        ("apot-v1", {"method": "pot"}, "4 bits, pot"),
        ("apot-v1", {"method": "uniform"}, "4 bits, uniform"),
        ("nonzero-grid", {"z": 3}, "2 bits, {2^-3, 1}"),
        ("nonzero-grid", {"grid": "zero"}, "2 bits, {0, 1}"),
    ):
        original = small(QUANTIZATIONS[family])
        wrong = coded(requantized(original, **changes))
        divergence = diverge(original, both=wrong)
        assert named in assert_weights(divergence, coded(original), wrong, "wrong bits")


def test_weights_that_are_not_quantized() -> None:
    """A layer whose latent floats were exported."""
    original = small(UNIFORM)
    right = coded(original)
    for name in ("first", "fc"):
        layer = FloatLayer(name=name, stored=original.get_submodule(name).weight.numpy())
        wrong = dataclasses.replace(right, layers={**right.layers, name: layer})
        evidence = assert_weights(
            diverge(original, both=wrong), right, wrong, "wrong bits", layer=name
        )
        assert "32 bits, not quantized" in evidence


@pytest.mark.parametrize("bits", [2, 3, 5])
def test_other_bits_of_a_trained_network(project: Path, tmp_path: Path, bits: int) -> None:
    export = convert(project / DIGITS, tmp_path / "export").path
    original = load_original(project / DIGITS, Choices(bits=4)).module
    right = load_packed(export).network
    images = sample(8, right.input_shape)
    assert diverge(original, both=right, images=images) is None
    wrong_bits = load_original(project / DIGITS, Choices(bits=bits)).module
    wrong = coded(wrong_bits, right.input_shape)
    divergence = diverge(original, both=wrong, images=images)
    evidence = assert_weights(divergence, right, wrong, "wrong bits", "layer1.0.conv1")
    assert f"{bits} bits" in evidence


# --- missing weight normalisation -----------------------------------------------------------------


@every_family
def test_weights_that_were_not_normalised(family: str) -> None:
    original = small(QUANTIZATIONS[family])
    original.middle.weight.data *= 20  # as wide as normalised ones, so that levels are used
    wrong = coded(requantized(original, normalize_weights=False))
    divergence = diverge(original, both=wrong)
    cause = "missing weight normalisation"
    assert "that were not normalised" in assert_weights(divergence, coded(original), wrong, cause)
    reverse = requantized(original, normalize_weights=False)
    divergence = diverge(reverse, both=coded(original))
    assert "the original's are not" in assert_weights(divergence, wrong, coded(original), cause)


def test_signs_of_zeros_are_told_from_levels() -> None:
    original = small(QUANTIZATIONS["apot-v1"])
    wrong = coded(requantized(original, unsigned_zeros=True))
    divergence = diverge(original, both=wrong)
    evidence = assert_weights(divergence, coded(original), wrong, None)
    assert "only signs of zeros differ: see --unsigned-zeros" in evidence


# --- no cause is invented -------------------------------------------------------------------------


@every_family
@pytest.mark.parametrize("name", ["first", MIDDLE, "fc"])
def test_corrupt_codes_have_no_cause(family: str, name: str) -> None:
    """One code, then up to five, in layers small enough for coincidences."""
    rng = np.random.default_rng(3)
    torch.manual_seed(4)
    original = Small(QUANTIZATIONS[family], width=4).eval().requires_grad_(requires_grad=False)
    right = coded(original)
    layer = right.layers[name]
    assert isinstance(layer, CodedLayer)
    for count in (1, 1, 2, 5):
        codes = layer.codes.copy()
        places = rng.choice(codes.size, count, replace=False)
        while (layer.values[codes] == layer.weights()).reshape(-1)[places].any():
            codes.reshape(-1)[places] = rng.integers(0, 1 << layer.codebook.bits, count)
        packed = pack(codes, layer.codebook.bits)
        wrong = change_layer(right, name, stored=packed)
        divergence = diverge(original, both=wrong)
        assert_weights(divergence, right, wrong, None, name)


def test_a_layer_that_is_missing() -> None:
    original, right = small(UNIFORM), coded(small(UNIFORM))
    original.extra = nn.Conv2d(1, 1, 1)
    divergence = found(diverge(original, both=right))
    assert (divergence.layer, divergence.kind, divergence.place) == ("extra", "weights", ())
    assert (divergence.original, divergence.export, divergence.cause) == (None, None, None)
    assert "missing from the packed file" in divergence.evidence


def test_another_sign_of_activations_is_named() -> None:
    unsigned = small(UNIFORM)
    signed = requantized(unsigned, activation_sign="signed")
    for original, export, says in (
        (signed, unsigned, f"{UNIFORM.activation_bits} bits, uniform"),
        (unsigned, signed, f"{UNIFORM.activation_bits} bits, signed uniform"),
    ):
        divergence = found(diverge(original, both=coded(export)))
        assert (divergence.layer, divergence.kind) == (MIDDLE, "constants")
        assert divergence.cause == "wrong bits"
        assert says in divergence.evidence


@pytest.mark.parametrize("factor", [1.01, 0.99, 1.001])
def test_another_threshold_is_a_constant(factor: float) -> None:
    original = small(QUANTIZATIONS["apot-v1"])
    right = coded(original)
    layer = right.layers[MIDDLE]
    assert isinstance(layer, CodedLayer)
    assert layer.activation is not None
    alpha = np.float32(layer.activation.alpha * np.float32(factor))
    activation = dataclasses.replace(layer.activation, alpha=alpha)
    wrong = change_layer(right, MIDDLE, activation=activation)
    divergence = found(diverge(original, both=wrong))
    assert (divergence.layer, divergence.kind, divergence.cause) == (MIDDLE, "constants", None)
    assert divergence.original == float(layer.activation.alpha)
    assert divergence.export == float(alpha)
    divergence = found(diverge(original, model=wrong))
    assert (divergence.layer, divergence.kind, divergence.cause) == (MIDDLE, "levels", None)


def test_another_weight_step_is_a_constant() -> None:
    original = small(QUANTIZATIONS["apot-v1"])
    right = coded(original)
    layer = right.layers[MIDDLE]
    assert isinstance(layer, CodedLayer)
    wrong = change_layer(right, MIDDLE, step=layer.step * 1.0001)
    divergence = found(diverge(original, packed=wrong))
    assert (divergence.layer, divergence.kind, divergence.cause) == (MIDDLE, "constants", None)
    assert divergence.original == pytest.approx(layer.step, rel=1e-7)
    assert divergence.export == layer.step * 1.0001
