"""Exports on OpenVINO, against the oracle and what the training codes computed."""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from apot_export import convert
from apot_export.artifacts.directory import ONNX_MODEL
from apot_export.artifacts.onnx_model import build_model, serialise
from apot_export.errors import DeviceError, ExportError
from apot_export.network import Add, CodedNetwork, Relu, ScaleBias, oracle
from apot_export.network.codebook import Codebook, apot, uniform
from apot_export.runtimes.openvino_runtime import OpenVinoSession, open_openvino
from tests.support.kinds import CONVERTED, HEIGHT, WIDTH, network_around
from tests.support.networks import Builder, images_of, quantizer, small_network
from tests.support.published import PUBLISHED, Floats, Shelf, agreement, in_batches
from tests.support.random_coded_networks import (
    SIGNED_INPUTS,
    Recipe,
    multi_bit_network,
    network_of_recipe,
    plane_network,
    random_network,
)
from tests.support.workshop import change_node

NAMED = [name for name in PUBLISHED if name not in {"res18_4bit", "alq_lenet5"}]


@pytest.fixture(scope="module", autouse=True)
def _openvino() -> None:
    if importlib.util.find_spec("openvino") is None:
        if os.environ.get("CI"):
            pytest.fail("CI must have OpenVINO: pip install 'apot-export[openvino]'")
        pytest.skip("OpenVINO is not installed: pip install 'apot-export[openvino]'")


def model_of(network: CodedNetwork) -> bytes:
    return serialise(build_model(network, name="x", tool="test 1", metadata={}))


def opened(network: CodedNetwork) -> OpenVinoSession:
    return open_openvino(model_of(network), threads=1)


def test_a_fixed_batch_takes_any_number_of_images() -> None:
    network = small_network()
    model = build_model(network, name="x", tool="t 1", metadata={}, target="plain", batch=2)
    images = images_of(network, 3)
    expected = opened(network).run(images)
    np.testing.assert_allclose(
        open_openvino(serialise(model), threads=1).run(images), expected, rtol=1e-5, atol=1e-5
    )


def assert_oracles_logits(network: CodedNetwork, images: Floats) -> None:
    expected = oracle.run(network, images)
    found = opened(network).run(images)
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    # Float rounding of layers whose input is float; one wrong level or weight would be far more.
    assert np.abs(found - expected).max() <= 3e-5 * np.abs(expected).max()


# --- the oracle -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_random_networks_of_all_operations(seed: int) -> None:
    network = random_network(seed)
    assert_oracles_logits(network, images_of(network, 4))


@pytest.mark.parametrize("seed", range(5))
def test_random_networks_of_signed_levels(seed: int) -> None:
    network = random_network(seed, SIGNED_INPUTS)
    assert_oracles_logits(network, images_of(network, 4))


@pytest.mark.parametrize("method", ["apot", "pot", "uniform"])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_random_networks_of_all_level_sets(method: str, bits: int) -> None:
    recipe = Recipe(method=method, weight_bits=bits, activation_bits=bits, groups=2, seed=bits)
    network = network_of_recipe(recipe)
    assert_oracles_logits(network, images_of(network, 4))


@pytest.mark.parametrize("terms", [0, 3])
@pytest.mark.parametrize("position_major", [False, True])
def test_networks_of_sign_vectors(terms: int, position_major: bool) -> None:
    network = multi_bit_network(4, terms, position_major=position_major)
    assert_oracles_logits(network, images_of(network, 4))


def test_groups_of_sign_vectors_across_outputs() -> None:
    network = plane_network(3)
    assert_oracles_logits(network, images_of(network, 4))


@pytest.mark.parametrize(
    ("channels", "book", "inputs", "least", "most"),
    [
        (16, apot(4, signed=True), apot(4, signed=False), 1 << 10, 1 << 24),
        (300, uniform(8, signed=False), uniform(9, signed=False), 1 << 24, 1 << 31),
    ],
    ids=["whole", "split"],
)
def test_accumulators_are_exact(
    channels: int, book: Codebook, inputs: Codebook, least: int, most: int
) -> None:
    builder = Builder(image=(channels, 4, 4))
    levels = quantizer(inputs, 1.0)
    value = builder.convolution("image", 8, (3, 3), book, levels, padding=(1, 1))
    unscaled = ScaleBias(scale=np.ones(1, np.float32), bias=np.zeros(1, np.float32))
    network = change_node(builder.finished(value), value, lambda _: unscaled)
    images = images_of(network, 4)
    expected = oracle.run(network, images)
    assert least < np.abs(expected).max() < most
    np.testing.assert_array_equal(opened(network).run(images), expected)


@pytest.mark.parametrize("target", ["portable", "openvino", "plain"])
@pytest.mark.parametrize("batch", [0, 3])
@pytest.mark.parametrize("first", ["same", "relu", "convolution"])
def test_a_step_without_bias_that_feeds_both_operands(first: str, batch: int, target: str) -> None:
    """OpenVINO 2026.4 multiplies by the step twice where nothing but the step is in between."""
    builder = Builder(image=(3, 8, 8))
    book, levels = apot(3, signed=True), quantizer(apot(4, signed=False), 1.3)

    def convolution(source: str) -> str:
        value = builder.convolution(source, 6, (3, 3), book, levels, padding=(1, 1), scalar=True)
        last = builder.nodes[-1]
        step = ScaleBias(scale=np.full(1, 0.01, np.float32), bias=np.zeros(1, np.float32))
        builder.nodes[-1] = replace(last, operation=step)
        return value

    value = convolution("image")
    made = {"relu": lambda: builder.add(Relu(), value), "convolution": lambda: convolution(value)}
    network = builder.head(builder.add(Add(), made.get(first, lambda: value)(), value), 5, book)
    images = images_of(network, 3)
    model = build_model(network, name="x", tool="t 1", metadata={}, target=target)
    found = open_openvino(serialise(model), threads=1, batch=batch).run(images)
    expected = oracle.run(network, images)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


# --- the session ----------------------------------------------------------------------------------


def test_what_a_session_says_about_itself() -> None:
    session = opened(small_network())
    assert session.version.replace(".", "").isdigit()
    assert session.options["INFERENCE_PRECISION_HINT"] == "f32"
    assert session.options["EXECUTION_MODE_HINT"] == "ACCURACY"
    assert session.options["INFERENCE_NUM_THREADS"] == "1"
    assert all(isinstance(value, str) for value in session.options.values())
    chosen = open_openvino(model_of(small_network())).options["INFERENCE_NUM_THREADS"]
    assert int(chosen) >= 1


def test_batches_of_any_size_and_results_of_their_own() -> None:
    session = opened(small_network())
    images = images_of(small_network(), 5)
    whole = session.run(images)
    kept = whole.copy()
    single = np.concatenate([session.run(image) for image in np.split(images, 5)])
    np.testing.assert_allclose(single, whole, rtol=1e-5, atol=1e-5)
    assert whole.tobytes() == kept.tobytes()


def test_other_images_and_broken_models_are_errors() -> None:
    session = opened(small_network())
    with pytest.raises(ExportError, match="could not run") as caught:
        session.run(np.zeros((1, 3, 9, 7), np.float32))
    assert "3,9,8" in str(caught.value.got)
    content = model_of(small_network())
    for broken in (content[:100], b"\xff" * 20):
        with pytest.raises(ExportError, match="does not load"):
            open_openvino(broken)


def test_openvino_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(DeviceError, match="not installed") as caught:
        open_openvino(model_of(small_network()))
    assert caught.value.fix == "pip install 'apot-export[openvino]'"


# --- what was trained -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMED)
def test_published_networks(shelf: Shelf, name: str) -> None:
    session = open_openvino((shelf.export(name) / ONNX_MODEL).read_bytes(), threads=1)
    golden = shelf.golden(name)
    logits = in_batches(session.run, shelf.images(name))
    itself = agreement(golden["logits_no_mkldnn"], golden["logits"])
    assert agreement(logits, golden["logits"]) >= itself
    assert agreement(logits, golden["logits_f64"]) >= itself


def test_published_resnet_18(shelf: Shelf) -> None:
    session = open_openvino((shelf.export("res18_4bit") / ONNX_MODEL).read_bytes(), threads=1)
    logits = session.run(shelf.images("res18_4bit"))
    assert agreement(logits, shelf.golden("res18_4bit")["logits_f64"][: len(logits)]) == 1


def test_published_multi_bit_network(shelf: Shelf) -> None:
    session = open_openvino((shelf.export("alq_lenet5") / ONNX_MODEL).read_bytes(), threads=1)
    logits = in_batches(session.run, shelf.images("alq_lenet5"))
    assert np.abs(logits - shelf.golden("alq_lenet5")["logits"]).max() < 1e-4


KINDS = {kind: step for kinds in CONVERTED.values() for kind, step in kinds.items()}


@pytest.mark.parametrize("target", ["openvino", "plain"])
@pytest.mark.parametrize(
    "kind",
    [
        *("ConvTranspose2d", "padding_mode", "bicubic", "Softmax", "GroupNorm", "roll, repeat"),
        *("adaptive pools of uneven windows", "amin, min, var, std", "concatenation of any axis"),
    ],
)
def test_operations_of_custom_networks(kind: str, target: str, tmp_path: Path) -> None:
    network = network_around(KINDS[kind])
    shape = (3, HEIGHT, WIDTH)
    path = convert(network, tmp_path / "export", input_shape=shape, target=target).path
    images = torch.randn((4, *shape), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected = network(images).numpy()
    found = open_openvino((path / ONNX_MODEL).read_bytes(), threads=1).run(images.numpy())
    assert found.shape == expected.shape
    # Levels that float noise moves change a few values, never the rest.
    near = np.isclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert near.mean() > 0.8
