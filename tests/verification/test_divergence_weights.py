"""Clamps, ties, orders and folded scales of weights: each is found where it was planted."""

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

from apot_export.network import CodedLayer, CodedNetwork, FloatLayer, ScaleBias
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
    assert divergence.cause == "int8 clamp of first or last layer"
    assert f"clipped to {lowest} to 127" in divergence.evidence
    if place == "model":
        assert (divergence.original, divergence.export) == (-145, lowest)
    else:
        assert_weights(divergence, right, wrong, divergence.cause, name)


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
    assert divergence.cause == "int8 clamp of first or last layer"
    assert "wrapped around into int8" in divergence.evidence


def test_the_int8_clamp_of_a_published_network(reference: Path) -> None:
    checkpoint = reference / "checkpoints/CIFAR10/result/res20_3bit/model_best.pth.tar"
    original = load_original(checkpoint, Choices()).module
    right = coded(original, (3, 32, 32))
    images = sample(1, (3, 32, 32))
    assert diverge(original, images=images) is None
    for name, lowest in (("conv1", -128), ("fc", -127)):
        wrong = change_codes(right, name, clamp(lowest))
        divergence = diverge(original, both=wrong, images=images)
        cause = "int8 clamp of first or last layer"
        assert "-130" in assert_weights(divergence, right, wrong, cause, name) or name == "fc"


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
    evidence = assert_weights(diverge(original, both=wrong), right, wrong, "tie rule")
    assert f"all {changed} lie half-way" in evidence
    assert found(diverge(original, model=wrong)).cause == "tie rule"


def test_one_tie_among_equals_is_no_rule() -> None:
    """Of weights with the same latent value, a rule of rounding moves all or none."""
    original, shifted = with_ties("apot-v1", 1e-5)
    right, moved = coded(original), coded_codes(coded(shifted))
    place = tuple(np.argwhere(coded_codes(right) != moved)[0])

    def one(codes: NDArray[Any]) -> NDArray[Any]:
        codes[place] = moved[place]
        return codes

    wrong = change_codes(right, MIDDLE, one)
    assert_weights(diverge(original, both=wrong), right, wrong, None)


def coded_codes(network: CodedNetwork) -> NDArray[Any]:
    layer = network.layers[MIDDLE]
    assert isinstance(layer, CodedLayer)
    return layer.codes


@pytest.mark.parametrize("name", ["first", "fc"])
def test_ties_of_eight_bit_weights(name: str) -> None:
    original = small(UNIFORM)
    weight = original.get_submodule(name).weight.data
    weight.clamp_(-0.5, 0.5).view(-1)[0] = 127 / 128
    weight.view(-1)[1:9] = torch.arange(8) / 128 + 0.5 / 128
    away = copy.deepcopy(original)
    away.get_submodule(name).weight.data.view(-1)[1:9] += 1e-6
    right, wrong = coded(original), coded(away)
    evidence = assert_weights(diverge(original, both=wrong), right, wrong, "tie rule", name)
    assert "all 4 lie half-way" in evidence


# --- layout ---------------------------------------------------------------------------------------

LAYOUTS: dict[str, tuple[Callable[[NDArray[Any]], NDArray[Any]], str]] = {
    "height and width": (lambda w: w.transpose(0, 1, 3, 2), "order OIWH instead of OIHW"),
    "inputs and outputs": (lambda w: w.transpose(1, 0, 2, 3), "order IOHW instead of OIHW"),
    "OHWI": (lambda w: w.transpose(0, 2, 3, 1).reshape(w.shape), "stored as OHWI and read as OIHW"),
    "HWIO": (lambda w: w.transpose(2, 3, 1, 0).reshape(w.shape), "stored as HWIO and read as OIHW"),
    "read as OHWI": (
        lambda w: w.reshape(8, 3, 3, 8).transpose(0, 3, 1, 2),
        "stored as OIHW and read as OHWI",
    ),
    "turned": (lambda w: w[:, :, ::-1, ::-1], "reverse order along H and W"),
}


@every_family
@pytest.mark.parametrize("form", LAYOUTS)
def test_weights_in_another_order(family: str, form: str) -> None:
    original = small(QUANTIZATIONS[family])
    change, said = LAYOUTS[form]
    right = coded(original)
    wrong = change_codes(right, MIDDLE, change)
    assert said in assert_weights(diverge(original, both=wrong), right, wrong, "layout")
    assert found(diverge(original, model=wrong)).cause == "layout"


@pytest.mark.parametrize(("family", "count"), [("apot-v1", 2), ("apot-v2", 8)])
def test_codes_unpacked_from_the_other_end(family: str, count: int) -> None:
    original = small(QUANTIZATIONS[family])
    right = coded(original)
    wrong = change_codes(right, MIDDLE, lambda w: w.reshape(-1, count)[:, ::-1].reshape(w.shape))
    evidence = assert_weights(diverge(original, both=wrong), right, wrong, "layout")
    assert f"within every {count} codes" in evidence


def test_linear_weights_in_another_order() -> None:
    original = small(UNIFORM)
    right = coded(original)
    for change, said in (
        (lambda w: w.T.reshape(w.shape), "stored as IO and read as OI"),
        (lambda w: w.reshape(10, 8, 9).swapaxes(1, 2).reshape(w.shape), "the 8 x 9 features"),
    ):
        wrong = change_codes(right, "fc", change)
        divergence = diverge(original, both=wrong)
        assert said in assert_weights(divergence, right, wrong, "layout", "fc")


# --- fused batch-norm -----------------------------------------------------------------------------


def test_a_batch_norm_in_float_weights() -> None:
    original = small(UNIFORM)
    right = coded(original)
    weights = right.layers["first"].weights() * scale_of(original.bn1)
    fused = FloatLayer(name="first", weight=weights.astype(np.float32))
    wrong = dataclasses.replace(right, layers={**right.layers, "first": fused})
    wrong = change_node(
        wrong, "bn1", lambda node: ScaleBias(scale=np.ones(1, dtype=np.float32), bias=node.bias)
    )
    divergence = diverge(original, both=wrong)
    evidence = assert_weights(divergence, right, wrong, "fused batch-norm", "first")
    assert "output channel by output channel" in evidence


@pytest.mark.parametrize("name", ["first", MIDDLE])
def test_a_batch_norm_in_latent_weights_that_were_not_quantized(name: str) -> None:
    original = small(UNIFORM)
    norm = {"first": original.bn1, MIDDLE: original.bn2}[name]
    right = coded(original)
    latent = original.get_submodule(name).weight.numpy() * scale_of(norm)
    fused = FloatLayer(name=name, weight=latent)
    wrong = dataclasses.replace(right, layers={**right.layers, name: fused})
    divergence = found(diverge(original, packed=wrong))
    assert (divergence.layer, divergence.cause) == (name, "fused batch-norm")
    assert "not quantized" in divergence.evidence


def test_one_factor_for_all_weights_is_no_batch_norm() -> None:
    original = small(UNIFORM)
    right = coded(original)
    layer = FloatLayer(name="first", weight=right.layers["first"].weights() * np.float32(1.5))
    wrong = dataclasses.replace(right, layers={**right.layers, "first": layer})
    assert_weights(diverge(original, both=wrong), right, wrong, None, "first")


@every_family
def test_a_batch_norm_in_latent_weights(family: str) -> None:
    original = small(QUANTIZATIONS[family])
    other = copy.deepcopy(original)
    other.middle.weight.data *= torch.from_numpy(scale_of(original.bn2))
    wrong = coded(other)
    divergence = diverge(original, both=wrong)
    evidence = assert_weights(divergence, coded(original), wrong, "fused batch-norm")
    assert "latent weights" in evidence
