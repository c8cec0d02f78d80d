"""Exports against what the published training code computed from the published checkpoints."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from apot_export.artifacts.directory import read_manifest
from apot_export.artifacts.onnx_model import build_model, serialise
from apot_export.artifacts.packed import PackedNetwork, load_packed
from apot_export.conversion.convert import convert
from apot_export.datasets import kind_by_name
from apot_export.network import (
    CodedLayer,
    CodedNetwork,
    FloatLayer,
    Layer,
    Network,
    QuantizeActivation,
)
from apot_export.original.choices import Choices
from apot_export.original.original import Original
from apot_export.original.published import load_original
from apot_export.runtimes.onnx_runtime import open_session
from tests.support.published import Shelf

RES20 = ("res20_2bit", "res20_3bit", "res20_4bit", "res20_32bit")
QUANTIZED = RES20[:3]
RES18 = "res18_4bit"
PUBLISHED_TOP1 = {"res20_2bit": 0.9080, "res20_3bit": 0.9290, "res20_4bit": 0.9304}
ULP = 2.0**-23

Floats = NDArray[np.float32]
FloatNetwork = Network[Layer]


@dataclass(kw_only=True)
class Case:
    """A published checkpoint, its export and its golden outputs."""

    original_path: Path
    export: Path
    golden: dict[str, NDArray[Any]]

    @cached_property
    def packed(self) -> PackedNetwork:
        return load_packed(self.export)

    @cached_property
    def original(self) -> Original:
        return load_original(self.original_path, Choices())

    def of_layers(self, prefix: str) -> dict[str, NDArray[Any]]:
        return {
            key.removeprefix(prefix): array
            for key, array in self.golden.items()
            if key.startswith(prefix)
        }

    def coded(self, name: str) -> CodedLayer:
        layer = self.packed.layers[name]
        assert isinstance(layer, CodedLayer)
        return layer

    def original_logits(self, images: Floats, size: int) -> Floats:
        batches = np.split(images, range(size, len(images), size))
        with torch.inference_mode():
            return np.concatenate(
                [self.original.module(torch.from_numpy(batch)).numpy() for batch in batches]
            )

    def onnx_logits(self, images: Floats, size: int) -> Floats:
        session = open_session((self.export / "model.onnx").read_bytes(), "cpu")
        batches = np.split(images, range(size, len(images), size))
        return np.concatenate([session.run(batch) for batch in batches])


def load_golden(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def cases(shelf: Shelf) -> dict[str, Case]:
    published = {name: name if name == RES18 else f"cifar10_{name}" for name in (*RES20, RES18)}
    return {
        name: Case(
            original_path=shelf.checkpoint(full),
            export=shelf.export(full),
            golden=shelf.golden(full),
        )
        for name, full in published.items()
    }


@pytest.fixture(scope="module")
def cifar(reference: Path) -> tuple[Floats, NDArray[np.int64]]:
    """Return the 761 images as the golden outputs' description says, and their labels."""
    arrays = load_golden(reference / "datasets/cifar10_test_head.npz")
    mean = np.array([0.491, 0.482, 0.447], dtype=np.float32).reshape(3, 1, 1)
    std = np.array([0.247, 0.243, 0.262], dtype=np.float32).reshape(3, 1, 1)
    images = (arrays["images"].astype(np.float32) / np.float32(255) - mean) / std
    return images, arrays["labels"].astype(np.int64)


def top1(logits: NDArray[Any]) -> NDArray[np.int64]:
    return np.asarray(logits.argmax(axis=1), dtype=np.int64)


def agreement(first: NDArray[Any], second: NDArray[Any]) -> float:
    return float((top1(first) == top1(second)).mean())


# --- weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RES20)
def test_decoded_weights_are_the_originals_bit_for_bit(cases: dict[str, Case], name: str) -> None:
    case = cases[name]
    golden = case.of_layers("weight_q/")
    assert len(golden) == (2 if name == "res20_32bit" else 22)
    for layer, expected in golden.items():
        assert case.packed.layers[layer].weights().tobytes() == expected.tobytes(), layer


@pytest.mark.parametrize("name", RES20)
def test_pytorch_side_quantizes_as_the_original_did(cases: dict[str, Case], name: str) -> None:
    case = cases[name]
    for layer, expected in case.of_layers("weight_q/").items():
        module: Any = case.original.module.get_submodule(layer)
        assert module.quantized_weight().numpy().tobytes() == expected.tobytes(), layer


def test_res18_integers_are_the_golden_ones(cases: dict[str, Case]) -> None:
    case = cases[RES18]
    golden = case.of_layers("weight_int/")
    assert len(golden) == 19
    for name, expected in golden.items():
        layer = case.coded(name)
        assert layer.codebook.denominator == 10
        np.testing.assert_array_equal(layer.levels(), expected, err_msg=name)
        module: Any = case.original.module.get_submodule(name)
        integers = module.quantized_weight().numpy() / abs(module.weight_alpha.item()) * 10
        np.testing.assert_array_equal(np.rint(integers), expected, err_msg=name)


@pytest.mark.parametrize("name", [*RES20, RES18])
def test_codes_and_steps(cases: dict[str, Case], name: str) -> None:
    for layer in cases[name].packed.layers.values():
        if not isinstance(layer, CodedLayer):
            continue
        codes, levels, weights = layer.codes, layer.levels(), layer.weights()
        wide = layer.codebook.bits > 8
        assert codes.dtype == (np.uint16 if wide else np.uint8)
        assert codes.shape == levels.shape == weights.shape == layer.shape
        assert codes.max() < 1 << layer.codebook.bits
        assert layer.packed.size == -(-codes.size * layer.codebook.bits // 8)
        products = levels * layer.step
        assert (np.abs(products - weights) <= 2 * np.spacing(np.abs(weights))).all(), layer.name
        first_or_last = layer.activation is None
        assert first_or_last == (layer.name in {"conv1", "fc"})
        assert first_or_last or layer.codebook.bits == read_manifest(cases[name].export)["bits"]


@pytest.mark.parametrize(
    ("name", "layer", "lowest"),
    [("res20_3bit", "conv1", -130), ("res20_3bit", "fc", -145), ("res20_2bit", "conv1", -135)],
)
def test_integers_of_8_bit_layers_leave_int8(
    cases: dict[str, Case], name: str, layer: str, lowest: int
) -> None:
    coded = cases[name].coded(layer)
    assert coded.levels().min() == lowest
    assert coded.levels().max() == 127
    assert coded.codebook.bits == 9
    assert coded.codes.dtype == np.uint16


# --- outputs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RES20)
def test_pytorch_side_computes_what_the_original_did(
    cases: dict[str, Case], cifar: tuple[Floats, NDArray[np.int64]], name: str
) -> None:
    golden = cases[name].golden
    logits = cases[name].original_logits(cifar[0], 100)
    # On the machine that made the golden outputs these are equal; elsewhere PyTorch may choose
    # another convolution algorithm, and then differs from itself by so much.
    noise = np.abs(golden["logits_no_mkldnn"] - golden["logits"]).max()
    assert np.abs(logits - golden["logits"]).max() <= noise
    own = agreement(golden["logits_no_mkldnn"], golden["logits"])
    assert agreement(logits, golden["logits"]) >= own


@pytest.mark.parametrize("name", RES20)
def test_onnx_runtime_agrees_as_well_as_pytorch_with_itself(
    cases: dict[str, Case], cifar: tuple[Floats, NDArray[np.int64]], name: str
) -> None:
    golden = cases[name].golden
    images, labels = cifar
    logits = cases[name].onnx_logits(images, 100)
    own = agreement(golden["logits_no_mkldnn"], golden["logits"])
    assert agreement(logits, golden["logits_f64"]) >= own
    assert agreement(logits, golden["logits"]) >= own
    accuracy = (top1(logits) == labels).mean()
    if name == "res20_32bit":
        assert agreement(logits, golden["logits_f64"]) == 1
        np.testing.assert_allclose(logits, golden["logits_f64"], atol=1e-3)
    else:
        one_image = 1 / len(labels)
        assert abs(accuracy - PUBLISHED_TOP1[name]) <= one_image + 5e-5


@pytest.mark.parametrize("name", RES20)
def test_oracle_agrees(
    cases: dict[str, Case], cifar: tuple[Floats, NDArray[np.int64]], name: str
) -> None:
    logits = cases[name].packed.run(cifar[0][:12])
    assert agreement(logits, cases[name].golden["logits_f64"][:12]) == 1


def test_res18_agrees_on_photographs(cases: dict[str, Case], reference: Path) -> None:
    case = cases[RES18]
    photographs = kind_by_name("imagenet").open(reference / "datasets/imagenet-sample")
    assert len(photographs) == 1000
    indices = case.golden["image_index"]
    images = np.stack([photographs.load(int(index)) for index in indices])
    logits = case.onnx_logits(images, 8)
    single, double = case.golden["logits"], case.golden["logits_f64"]
    # The original's own float32 rounding moves one of the 32 images away from its float64 result;
    # exact accumulators stay with the latter.
    assert agreement(single, double) == 31 / 32
    assert agreement(logits, double) == 1
    assert agreement(logits, single) >= agreement(double, single)
    assert np.abs(logits - single).max() <= 3 * np.abs(single - double).max()
    assert np.abs(logits - double).mean() < np.abs(single - double).mean()
    assert agreement(case.packed.run(images[8:9]), double[8:9]) == 1
    assert agreement(case.original_logits(images[:8], 8), single[:8]) == 1


# --- files ----------------------------------------------------------------------------------------


def test_plain_thresholds_are_the_lines_that_the_authors_published(
    cases: dict[str, Case], reference: Path
) -> None:
    expected = (reference / "golden/res20_3bit_alphas.txt").read_text(encoding="utf-8")
    for path in (cases["res20_3bit"].export, cases["res20_3bit"].original_path):
        command = [sys.executable, "-m", "apot_export_cli.main", "inspect", "alphas", "--plain"]
        shown = subprocess.run(
            [*command, str(path)], capture_output=True, check=True, encoding="utf-8"
        )
        assert shown.stdout == expected


def test_codes_take_exactly_their_bits(cases: dict[str, Case], tmp_path: Path) -> None:
    case = cases["res20_4bit"]
    layers = case.packed.layers
    coded = [layer for layer in layers.values() if isinstance(layer, CodedLayer)]
    assert len(coded) == len(layers) == 22
    expected = sum(-(-layer.weights().size * layer.codebook.bits // 8) for layer in coded)
    assert sum(layer.packed.nbytes for layer in coded) == expected
    result = convert(case.original_path, tmp_path / "export")
    assert result.weights == 270_896
    assert result.code_bits == 4 * (270_896 - 432 - 640) + 8 * (432 + 640)


def float_network(network: CodedNetwork) -> CodedNetwork:
    """Return the same graph as training without quantization leaves it: all weights float32."""
    values = {
        node.name: node.inputs[0]
        for node in network.nodes
        if isinstance(node.operation, QuantizeActivation)
    }
    nodes = tuple(
        dataclasses.replace(node, inputs=tuple(values.get(name, name) for name in node.inputs))
        for node in network.nodes
        if node.name not in values
    )
    layers: dict[str, Layer] = {
        name: FloatLayer(name=name, stored=layer.weights())
        for name, layer in network.layers.items()
    }
    return FloatNetwork(
        nodes=nodes,
        layers=layers,
        input=network.input,
        input_shape=network.input_shape,
        output=network.output,
    )


@pytest.mark.parametrize("name", [*QUANTIZED, RES18])
def test_both_files_are_small(cases: dict[str, Case], name: str) -> None:
    network = cases[name].packed.network
    model = build_model(float_network(network), name=name, tool="test 1", metadata={})
    full = len(serialise(model))
    weights = sum(layer.weights().size for layer in network.layers.values())
    assert 4 * weights < full < 4.2 * weights
    sizes = {file.name: file.stat().st_size for file in cases[name].export.iterdir()}
    assert sizes["model.onnx"] <= 0.22 * full
    assert sizes["model.apot.safetensors"] <= (0.135 if name == RES18 else 0.19) * full


@pytest.mark.parametrize("name", [*RES20, RES18])
def test_the_safetensors_library_opens_the_packed_file(cases: dict[str, Case], name: str) -> None:
    tensors = load_file(cases[name].export / "model.apot.safetensors")
    parameters = tensors["parameters"]
    for layer in cases[name].packed.layers.values():
        if isinstance(layer, CodedLayer):
            assert tensors[f"{layer.name}.codes"].tobytes() == layer.packed.tobytes()
            values, parameters = np.split(parameters, [1 << layer.codebook.bits])
            assert values.tobytes() == layer.values.tobytes()
        else:
            assert tensors[f"{layer.name}.weight"].tobytes() == layer.weights().tobytes()


def test_conversion_is_deterministic(cases: dict[str, Case], tmp_path: Path) -> None:
    case = cases["res20_4bit"]
    again = convert(case.original_path, tmp_path / "again").path
    for file in ("model.onnx", "model.apot.safetensors"):
        assert (again / file).read_bytes() == (case.export / file).read_bytes()
