"""The integer network: one result on every executor, and the one that its semantics state."""

from __future__ import annotations

import dataclasses
import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from apot_export.artifacts.directory import INTEGER_MODEL, read_manifest
from apot_export.artifacts.onnx_model import build_integer_model, serialise
from apot_export.artifacts.onnx_model._exact import balanced_digits
from apot_export.artifacts.onnx_model.probe import whole_integers
from apot_export.artifacts.packed import load_packed
from apot_export.conversion.convert import convert
from apot_export.conversion.integer_choices import IntegerChoices
from apot_export.errors import BoundError, IntegerError
from apot_export.integer import IntegerNetwork, Pixels, lower, operation_counts, run_integer
from apot_export.integer.fixed_point import (
    Range,
    fused,
    requantized,
    requantizer,
    round_half_up,
    signed_digits,
    stream_thresholds,
)
from apot_export.integer.network import Quantize, Requantize
from apot_export.network import CodedNetwork
from apot_export.network.codebook import apot, uniform
from apot_export.network.layers import ActivationQuantizer
from apot_export.network.oracle import run
from apot_export.runtimes.onnx_runtime import open_session
from tests.support.published import Shelf
from tests.support.random_coded_networks import (
    Recipe,
    multi_bit_network,
    network_of_recipe,
    random_network,
)

DIGITS = "examples/digits/res8_4bit/model_best.pth.tar"
SLOW = settings(derandomize=True, deadline=None, max_examples=25)
FAST = settings(derandomize=True, deadline=None, max_examples=200)
RECIPES = st.builds(
    Recipe,
    seed=st.integers(0, 1000),
    method=st.sampled_from(["apot", "uniform", "pot"]),
    weight_bits=st.sampled_from([2, 3, 4]),
    activation_bits=st.sampled_from([2, 3, 4]),
    groups=st.sampled_from([1, 2, 4]),
    stride=st.sampled_from([1, 2]),
    dilation=st.sampled_from([1, 2]),
    gain=st.sampled_from([0.01, 1.0, 3.0]),
)


def images_of(network: CodedNetwork, count: int, seed: int = 0) -> NDArray[np.float32]:
    generator = np.random.default_rng(seed)
    images = generator.normal(0, 2, (count, *network.input_shape)).astype(np.float32)
    images[0] = 100.0  # beyond what the input is clamped to
    images[-1] = -100.0
    return images


def onnx_values(
    coded: CodedNetwork, network: IntegerNetwork, images: NDArray[Any], threads: int = 0
) -> dict[str, NDArray[Any]]:
    model = build_integer_model(coded, network, name="n", tool="test 1", metadata={})
    onnx.checker.check_model(model, full_check=True)
    outputs = list(model.graph.value_info)
    model.graph.output.extend(outputs)
    return whole_integers(open_session(serialise(model), "cpu", threads=threads).run_all(images))


def check_all_values(coded: CodedNetwork, network: IntegerNetwork, images: NDArray[Any]) -> None:
    """Every value of ONNX Runtime is the oracle's and lies in its proven range."""
    seen: dict[str, NDArray[Any]] = {}
    logits = run_integer(network, images, observe=seen.__setitem__)
    got = onnx_values(coded, network, images)
    np.testing.assert_array_equal(got["logits"], logits)
    for node in network.nodes:
        assert node.interval.low <= seen[node.name].min(), node.name
        assert seen[node.name].max() <= node.interval.high, node.name
        if node.name != network.output:
            np.testing.assert_array_equal(got[node.name], seen[node.name], err_msg=node.name)


@SLOW
@given(RECIPES, st.sampled_from([4, 8, 13]))
def test_random_networks_have_one_result(recipe: Recipe, bits: int) -> None:
    coded = network_of_recipe(recipe)
    network = lower(coded, fraction_bits=bits)
    check_all_values(coded, network, images_of(coded, 3))


@SLOW
@given(RECIPES, st.sampled_from([4, 8, 13]), st.sampled_from(["signed", "passes"]))
def test_signed_levels_have_one_result(recipe: Recipe, bits: int, sign: str) -> None:
    coded = network_of_recipe(dataclasses.replace(recipe, method="uniform", sign=sign))
    network = lower(coded, fraction_bits=bits)
    levels = [node.interval.low for node in network.nodes if isinstance(node.operation, Quantize)]
    assert min(levels) < 0
    check_all_values(coded, network, images_of(coded, 3))


@pytest.mark.parametrize(("seed", "bits"), [*((s, 8) for s in range(6)), (0, 24), (3, 24), (5, 24)])
@pytest.mark.parametrize("input_bits", [None, 23])
def test_every_operation_has_one_result_however_wide(
    seed: int, bits: int, input_bits: int | None
) -> None:
    coded = random_network(seed)
    network = lower(coded, fraction_bits=bits, input_bits=input_bits)
    check_all_values(coded, network, images_of(coded, 3))


@pytest.mark.parametrize("position_major", [False, True])
@pytest.mark.parametrize("terms", [1, 2, 3])
def test_sign_vectors_have_one_result(terms: int, position_major: bool) -> None:
    coded = multi_bit_network(terms, terms, position_major=position_major)
    network = lower(coded, fraction_bits=10)
    images = images_of(coded, 4)
    check_all_values(coded, network, images)
    real = run_integer(network, images) * float(network.logit_scale)
    clamped = np.clip(images, -8, 8)
    np.testing.assert_allclose(real, run(coded, clamped), atol=0.02)


def test_wide_accumulators_are_split_exactly() -> None:
    recipe = Recipe(weight_bits=6, activation_bits=6, seed=3)
    coded = network_of_recipe(recipe)
    network = lower(coded, fraction_bits=8)
    widened = {
        name: dataclasses.replace(layer, bound=max(layer.bound, 1 << 24))
        if layer.reads_levels
        else layer
        for name, layer in network.layers.items()
    }
    check_all_values(coded, dataclasses.replace(network, layers=widened), images_of(coded, 3))


def test_any_batch_size_and_number_of_threads_gives_the_same() -> None:
    coded = network_of_recipe(Recipe(seed=5))
    network = lower(coded, fraction_bits=12)
    images = images_of(coded, 10)
    expected = run_integer(network, images)
    for threads in (1, 2):
        for size in (1, 3, 10):
            batches = np.split(images, range(size, len(images), size))
            logits = [onnx_values(coded, network, b, threads)["logits"] for b in batches]
            np.testing.assert_array_equal(np.concatenate(logits), expected)


def test_it_comes_close_to_the_float_network() -> None:
    coded = network_of_recipe(Recipe(seed=7, gain=0.5))
    images = np.clip(images_of(coded, 50)[1:-1], -8, 8)
    exact = run(coded, images)
    errors = []
    for bits in (6, 10, 14, 18):
        network = lower(coded, fraction_bits=bits)
        logits = run_integer(network, images) * float(network.logit_scale)
        errors.append(np.median(np.abs(logits - exact)))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-3


def test_logits_fit_32_bits_and_are_rounded_once() -> None:
    coded = network_of_recipe(Recipe(seed=7, gain=0.5))
    network = lower(coded, fraction_bits=20)
    last = network.nodes[-1]
    assert (last.interval.bits, last.inputs) == (31, (f"{network.output}.wide",))
    seen: dict[str, NDArray[Any]] = {}
    logits = run_integer(network, images_of(coded, 20), observe=seen.__setitem__)
    assert isinstance(last.operation, Requantize)
    exact = seen[last.inputs[0]] / 2**last.operation.shift
    np.testing.assert_array_equal(logits, np.floor(exact + 0.5))


def test_digits_add_up_to_their_integers() -> None:
    numbers = [0, 1, -1, 1023, 1024, -1025, (1 << 62) + 12345, -(1 << 61)]
    for bits in (2, 7, 11):
        digits = balanced_digits(numbers, bits)
        assert max(int(np.abs(digit).max()) for digit in digits) <= 1 << (bits - 1)
        sums = [sum(int(d[i]) << (bits * k) for k, d in enumerate(digits)) for i in range(8)]
        assert sums == numbers


# --- thresholds are the composed form -------------------------------------------------------------

GAINS = st.fractions(min_value=-3, max_value=3, max_denominator=1 << 20)


@FAST
@given(
    gain=GAINS,
    bias=st.fractions(min_value=-5, max_value=5, max_denominator=1 << 20),
    alpha=st.floats(0.015625, 10, width=32),
    bits=st.integers(2, 6),
    fraction=st.integers(0, 16),
    book=st.sampled_from(["apot", "uniform"]),
)
def test_fused_thresholds_equal_requantizing_for_every_accumulator(
    gain: Fraction, bias: Fraction, alpha: float, bits: int, fraction: int, book: str
) -> None:
    limit = 3000
    values = Range(low=np.array([-limit]), high=np.array([limit]))
    units = Fraction(1 << fraction)
    requantize = requantizer("node", [gain / 100 * units], [bias * units], values)
    codebook = (apot if book == "apot" else uniform)(bits, signed=False)
    quantizer = ActivationQuantizer(codebook=codebook, alpha=np.float32(alpha))
    thresholds, levels = stream_thresholds(quantizer, units)
    assert thresholds == sorted(thresholds)
    assert min(thresholds) > 0
    quantize = fused(thresholds, levels, requantize, values)
    accumulators = np.arange(-limit, limit + 1, dtype=np.int64)
    stream = np.maximum(requantized(accumulators[:, None], requantize, axis=1)[:, 0], 0)
    composed = levels[np.searchsorted(np.array(thresholds), stream, side="right")]
    directed = accumulators * quantize.direction[0]
    counted = (directed[:, None] >= quantize.thresholds[0]).sum(axis=1)
    np.testing.assert_array_equal(levels[counted], composed)


def test_decision_points_are_those_of_the_float_quantizer() -> None:
    quantizer = ActivationQuantizer(codebook=apot(4, signed=False), alpha=np.float32(1.7))
    units = Fraction(1 << 20)
    thresholds, levels = stream_thresholds(quantizer, units)
    step = Fraction(float(quantizer.alpha)) / quantizer.codebook.denominator
    for threshold, low, high in zip(thresholds, levels, levels[1:], strict=False):
        point = (int(low) + int(high)) * step / 2 * units
        assert threshold - 1 < point <= threshold


def test_requantizing_rounds_half_up() -> None:
    values = Range(low=np.array([-100]), high=np.array([100]))
    half = requantizer("node", [Fraction(1, 2)], [Fraction(0)], values)
    numbers = np.arange(-5, 6, dtype=np.int64)
    expected = [round_half_up(Fraction(int(number), 2)) for number in numbers]
    assert requantized(numbers[:, None], half, axis=1)[:, 0].tolist() == expected
    assert expected == [-2, -2, -1, -1, 0, 0, 1, 1, 2, 2, 3]


@FAST
@given(st.integers(-(1 << 40), 1 << 40))
def test_signed_digits_add_up_and_do_not_touch(value: int) -> None:
    digits = signed_digits(value)
    assert sum(sign << shift for shift, sign in digits) == value
    shifts = [shift for shift, _ in digits]
    assert all(high - low >= 2 for low, high in itertools.pairwise(shifts))


# --- refusals -------------------------------------------------------------------------------------


def test_what_could_overflow_is_refused_by_name_and_amount() -> None:
    coded = network_of_recipe(Recipe(seed=1, gain=3.0))
    with pytest.raises(BoundError, match="could overflow") as caught:
        lower(coded, fraction_bits=24)
    assert caught.value.where is not None
    assert "more bits" in str(caught.value.got)
    for bits in (-1, 25):
        with pytest.raises(IntegerError, match="out of range"):
            lower(coded, fraction_bits=bits)


def test_float_weights_have_no_integer_form() -> None:
    coded = multi_bit_network(0, 0, position_major=False)
    with pytest.raises(IntegerError, match="not integers") as caught:
        lower(coded, fraction_bits=8)
    assert "--alpha-terms" in str(caught.value.expected)


# --- from the command -----------------------------------------------------------------------------


def test_the_export_holds_the_integer_network(project: Path, tmp_path: Path) -> None:
    result = convert(
        project / DIGITS, tmp_path / "export", integer=IntegerChoices(fraction_bits=12)
    )
    form = read_manifest(result.path)["integer"]
    assert (form["fraction_bits"], form["fraction_bits_from"]) == (12, "option")
    coded = load_packed(result.path).network
    network = lower(coded, fraction_bits=12)
    assert form["operations"] == operation_counts(network)
    assert form["ranges"] == {n.name: [n.interval.low, n.interval.high] for n in network.nodes}
    images = images_of(coded, 4)
    model = (result.path / INTEGER_MODEL).read_bytes()
    logits = open_session(model, "cpu").run_all(images)["logits"]
    np.testing.assert_array_equal(logits, run_integer(network, images))
    properties = {p.key: p.value for p in onnx.load_from_string(model).metadata_props}
    assert Fraction(properties["logit_scale"]) == network.logit_scale


def test_calibration_finds_the_fewest_fraction_bits(project: Path, tmp_path: Path) -> None:
    result = convert(project / DIGITS, tmp_path / "export", integer=IntegerChoices())
    assert result.integer is not None
    assert result.integer["fraction_bits_from"] == "calibration"
    assert result.integer["agreement"] >= result.integer["yardstick"]


def test_pixels_are_normalised_in_integers() -> None:
    coded = network_of_recipe(Recipe(seed=2))
    pixels = Pixels(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    network = lower(coded, fraction_bits=14, pixels=pixels)
    generator = np.random.default_rng(0)
    raw = generator.integers(0, 256, (5, *coded.input_shape), dtype=np.uint8)
    check_all_values(coded, network, raw)
    mean, std = (np.array(v).reshape(1, 3, 1, 1) for v in (pixels.mean, pixels.std))
    images = ((raw / 255 - mean) / std).astype(np.float32)
    np.testing.assert_array_equal(pixels.of_images(images), raw)
    seen: dict[str, NDArray[Any]] = {}
    run_integer(network, raw, observe=seen.__setitem__)
    fixed = seen["image.fixed"] / 2**network.input_bits
    assert np.abs(fixed - images).max() < 2**-13


# --- published networks ---------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_published_networks_agree(bits: int, shelf: Shelf) -> None:
    name = f"cifar10_res20_{bits}bit"
    coded, images = shelf.network(name), shelf.images(name)[:100]
    golden = shelf.golden(name)["logits_f64"][:100]
    network = lower(coded, fraction_bits=20)
    assert any(isinstance(node.operation, Quantize) for node in network.nodes)
    assert any(isinstance(node.operation, Requantize) for node in network.nodes)
    logits = run_integer(network, images[:40])
    np.testing.assert_array_equal(onnx_values(coded, network, images[:40])["logits"], logits)
    every = onnx_values(coded, network, images)["logits"]
    assert (every.argmax(axis=1) == golden.argmax(axis=1)).mean() >= 0.99
