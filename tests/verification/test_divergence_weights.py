"""Clamps, ties, orders and folded scales of weights: each is found where it was planted.

No choice of a user makes them, so they have no known cause.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from apot_export.network import FloatLayer, ScaleBias
from apot_export.original.choices import Choices
from apot_export.original.published import load_original
from tests.support.divergences import (
    MIDDLE,
    QUANTIZATIONS,
    UNIFORM,
    assert_weights,
    change_codes,
    coded,
    coded_levels,
    diverge,
    found,
    sample,
    scale_of,
    small,
)
from tests.support.workshop import change_node

every_family = pytest.mark.parametrize("family", QUANTIZATIONS)


# --- first and last layers ------------------------------------------------------------------------


def clamp(lowest: int) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Return what clips 8-bit magnitudes with a sign bit of 256."""
    return lambda codes: np.minimum(codes & 255, -lowest) | codes & 256


@pytest.mark.parametrize("lowest", [-128, -127])
@pytest.mark.parametrize("name", ["first", "fc"])
@pytest.mark.parametrize("place", ["both", "packed", "model"])
def test_an_int8_clamp(name: str, lowest: int, place: str) -> None:
    original = small(UNIFORM)
    weight = original.get_submodule(name).weight.data
    weight[2, 1] = -1.14 * weight.max()
    right = coded(original)

    wrong = change_codes(right, name, clamp(lowest))
    packed, model = (None if place == other else wrong for other in ("model", "packed"))
    divergence = found(diverge(original, packed=packed, model=model))
    assert (divergence.layer, divergence.channel) == (name, 2)
    if place == "model":
        assert (divergence.original, divergence.export) == (-145, lowest)
    else:
        assert_weights(divergence, right, wrong, None, name)


@pytest.mark.parametrize("place", ["both", "packed", "model"])
def test_integers_that_wrapped_around_into_int8(place: str) -> None:
    original = small(UNIFORM)
    weight = original.first.weight.data
    weight[2, 1] = -1.14 * weight.max()
    right = coded(original)

    def wrap(codes: NDArray[Any]) -> NDArray[Any]:
        wrapped = (coded_levels(right, "first") + 128) % 256 - 128
        return np.where(wrapped == coded_levels(right, "first"), codes, np.abs(wrapped))

    wrong = change_codes(right, "first", wrap)
    packed, model = (None if place == other else wrong for other in ("model", "packed"))
    divergence = found(diverge(original, packed=packed, model=model))
    assert (divergence.layer, divergence.channel) == ("first", 2)
    assert (divergence.kind, divergence.cause) == ("weights", None)


def test_the_int8_clamp_of_a_published_network(reference: Path) -> None:
    checkpoint = reference / "checkpoints/CIFAR10/result/res20_3bit/model_best.pth.tar"
    original = load_original(checkpoint, Choices()).module
    right = coded(original, (3, 32, 32))
    images = sample(1, (3, 32, 32))
    assert diverge(original, images=images) is None
    for name, lowest in (("conv1", -128), ("fc", -127)):
        wrong = change_codes(right, name, clamp(lowest))
        divergence = diverge(original, both=wrong, images=images)
        assert_weights(divergence, right, wrong, None, name)


# --- ties -----------------------------------------------------------------------------------------

TIES = [
    *((family, shift) for family in list(QUANTIZATIONS)[:4] for shift in (1e-5, -1e-5)),
    ("nonzero", 1e-5),
    ("nonzero-grid", 1e-5),  # whose only tie goes down
]


def with_ties(family: str, shift: float) -> tuple[Any, Any]:
    """Return a network that has every tie of its levels many times, and one with them shifted."""
    quantization = dataclasses.replace(QUANTIZATIONS[family], normalize_weights=False)
    original = small(quantization, seed=1)
    layer = original.middle
    layer.weight_alpha.data.fill_(2.0)
    layer.weight.data *= 20
    steps = torch.arange(8.0) / 7 if layer.weight_levels is None else layer.weight_levels
    levels = steps.sort().values
    ties = ((levels[1:] + levels[:-1]) / 2).repeat(4) * 2
    layer.weight.data.view(-1)[: ties.numel()] = ties
    layer.weight.data.view(-1)[-ties.numel() :] = -ties
    shifted = copy.deepcopy(original)
    for part in (slice(0, ties.numel()), slice(-ties.numel(), None)):
        shifted.middle.weight.data.view(-1)[part] *= 1 + shift
    return original, shifted


@pytest.mark.parametrize(("family", "shift"), TIES)
def test_ties_that_went_the_other_way(family: str, shift: float) -> None:
    original, shifted = with_ties(family, shift)
    right, wrong = coded(original), coded(shifted)
    changed = int((right.layers[MIDDLE].weights() != wrong.layers[MIDDLE].weights()).sum())
    assert changed >= 4
    evidence = assert_weights(diverge(original, both=wrong), right, wrong, None)
    assert f"{changed} of " in evidence
    assert found(diverge(original, model=wrong)).layer == MIDDLE


@pytest.mark.parametrize("name", ["first", "fc"])
def test_ties_of_eight_bit_weights(name: str) -> None:
    original = small(UNIFORM)
    weight = original.get_submodule(name).weight.data
    weight.clamp_(-0.5, 0.5).view(-1)[0] = 127 / 128
    weight.view(-1)[1:9] = torch.arange(8) / 128 + 0.5 / 128
    away = copy.deepcopy(original)
    away.get_submodule(name).weight.data.view(-1)[1:9] += 1e-6
    right, wrong = coded(original), coded(away)
    evidence = assert_weights(diverge(original, both=wrong), right, wrong, None, name)
    assert "4 of " in evidence


# --- layout ---------------------------------------------------------------------------------------

LAYOUTS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "height and width": lambda w: w.transpose(0, 1, 3, 2),
    "inputs and outputs": lambda w: w.transpose(1, 0, 2, 3),
    "OHWI": lambda w: w.transpose(0, 2, 3, 1).reshape(w.shape),
    "HWIO": lambda w: w.transpose(2, 3, 1, 0).reshape(w.shape),
    "read as OHWI": lambda w: w.reshape(8, 3, 3, 8).transpose(0, 3, 1, 2),
    "turned": lambda w: w[:, :, ::-1, ::-1],
    "pairs of codes": lambda w: w.reshape(-1, 2)[:, ::-1].reshape(w.shape),
}


@pytest.mark.parametrize("family", ["apot-v1", "uniform", "nonzero-grid"])
@pytest.mark.parametrize("form", LAYOUTS)
def test_weights_in_another_order(family: str, form: str) -> None:
    original = small(QUANTIZATIONS[family])
    right = coded(original)
    wrong = change_codes(right, MIDDLE, LAYOUTS[form])
    assert_weights(diverge(original, both=wrong), right, wrong, None)
    assert found(diverge(original, model=wrong)).layer == MIDDLE


def test_linear_weights_in_another_order() -> None:
    original = small(UNIFORM)
    right = coded(original)
    wrong = change_codes(right, "fc", lambda w: w.T.reshape(w.shape))
    assert_weights(diverge(original, both=wrong), right, wrong, None, "fc")


# --- batch-norms that were folded into weights ----------------------------------------------------


def test_a_batch_norm_in_float_weights() -> None:
    original = small(UNIFORM)
    right = coded(original)
    weights = right.layers["first"].weights() * scale_of(original.bn1)
    fused = FloatLayer(name="first", stored=weights.astype(np.float32))
    wrong = dataclasses.replace(right, layers={**right.layers, "first": fused})
    wrong = change_node(
        wrong, "bn1", lambda node: ScaleBias(scale=np.ones(1, dtype=np.float32), bias=node.bias)
    )
    assert_weights(diverge(original, both=wrong), right, wrong, None, "first")


def test_a_batch_norm_in_latent_weights_that_were_not_quantized() -> None:
    original = small(UNIFORM)
    right = coded(original)
    fused = FloatLayer(name="first", stored=original.first.weight.numpy() * scale_of(original.bn1))
    wrong = dataclasses.replace(right, layers={**right.layers, "first": fused})
    evidence = assert_weights(diverge(original, packed=wrong), right, wrong, None, "first")
    assert "in the packed file" in evidence


def test_one_factor_for_all_weights() -> None:
    original = small(UNIFORM)
    right = coded(original)
    layer = FloatLayer(name="first", stored=right.layers["first"].weights() * np.float32(1.5))
    wrong = dataclasses.replace(right, layers={**right.layers, "first": layer})
    assert_weights(diverge(original, both=wrong), right, wrong, None, "first")


@every_family
def test_a_batch_norm_in_latent_weights(family: str) -> None:
    original = small(QUANTIZATIONS[family])
    other = copy.deepcopy(original)
    other.middle.weight.data *= torch.from_numpy(scale_of(original.bn2))
    wrong = coded(other)
    assert_weights(diverge(original, both=wrong), coded(original), wrong, None)
