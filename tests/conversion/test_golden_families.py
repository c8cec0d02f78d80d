"""Exports of the other families against what their published training codes computed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import apot_export
from apot_export import verify
from apot_export.artifacts.onnx_model import build_model
from apot_export.artifacts.onnx_model.probe import with_outputs
from apot_export.artifacts.packed import PackedNetwork, load_packed
from apot_export.conversion.convert import convert
from apot_export.errors import RecognitionError
from apot_export.original.checkpoint import load_checkpoint
from apot_export.original.choices import Choices
from apot_export.original.original import Original
from apot_export.original.published import load_original, rebuild
from apot_export.runtimes.onnx_runtime import open_session
from apot_export.verification.proof.levels import compare_levels
from tests.support.published import PUBLISHED, Shelf, agreement

Floats = NDArray[np.float32]
MNIST = ("mnist_resnet10_3bit", "mnist_resnet10_4bit_uniform", "mnist_resnet10_5bit")
CIFAR100 = tuple(f"cifar100_res32_2bit{grid}" for grid in ("", "_ngrid_z2", "_ngrid_z4"))
NAMES = (*MNIST, *CIFAR100)
LENET = "checkpoints/ALQ/lenet5_model.pth"


@dataclass(kw_only=True)
class Case:
    """A published checkpoint, its export and its golden outputs."""

    path: Path
    choices: Choices
    export: Path
    golden: dict[str, NDArray[Any]]
    images: Floats

    @cached_property
    def packed(self) -> PackedNetwork:
        return load_packed(self.export)

    @cached_property
    def original(self) -> Original:
        return load_original(self.path, self.choices)

    @cached_property
    def logits(self) -> Floats:
        session = open_session((self.export / "model.onnx").read_bytes(), "cpu")
        return np.concatenate([session.run(batch) for batch in np.array_split(self.images, 10)])


@pytest.fixture(scope="module")
def cases(shelf: Shelf) -> dict[str, Case]:
    return {
        name: Case(
            path=shelf.checkpoint(name),
            choices=PUBLISHED[name].choices or Choices(),
            export=shelf.export(name),
            golden=shelf.golden(name),
            images=shelf.images(name),
        )
        for name in NAMES
    }


@pytest.mark.parametrize("name", NAMES)
def test_decoded_weights_are_the_originals_bit_for_bit(cases: dict[str, Case], name: str) -> None:
    case = cases[name]
    golden = {
        key.removeprefix("weight_q/"): array
        for key, array in case.golden.items()
        if key.startswith("weight_q/")
    }
    assert set(golden) == set(case.packed.layers)
    for layer, expected in golden.items():
        assert case.packed.layers[layer].weights().tobytes() == expected.tobytes(), layer
        module: Any = case.original.module.get_submodule(layer)
        assert module.quantized_weight().numpy().tobytes() == expected.tobytes(), layer


@pytest.mark.parametrize("name", NAMES)
def test_pytorch_side_computes_what_the_original_did(cases: dict[str, Case], name: str) -> None:
    case = cases[name]
    with torch.inference_mode():
        logits = np.concatenate(
            [
                case.original.module(torch.from_numpy(batch)).numpy()
                for batch in np.split(case.images, range(100, len(case.images), 100))
            ]
        )
    # Equal on the machine that made the golden outputs; elsewhere within PyTorch's own noise.
    noise = np.abs(case.golden["logits_no_mkldnn"] - case.golden["logits"]).max()
    assert np.abs(logits - case.golden["logits"]).max() <= noise


@pytest.mark.parametrize("name", NAMES)
def test_onnx_runtime_agrees_as_well_as_pytorch_with_itself(
    cases: dict[str, Case], name: str
) -> None:
    case = cases[name]
    own = agreement(case.golden["logits_no_mkldnn"], case.golden["logits"])
    found = agreement(case.logits, case.golden["logits"])
    assert found >= own
    assert agreement(case.logits, case.golden["logits_f64"]) >= own
    if name in MNIST:
        assert found == 1


@pytest.mark.parametrize("name", NAMES)
def test_oracle_agrees(cases: dict[str, Case], name: str) -> None:
    case = cases[name]
    count = len(case.images) if name in MNIST else 60
    logits = np.concatenate(
        [case.packed.run(batch) for batch in np.array_split(case.images[:count], count // 20)]
    )
    own = agreement(case.golden["logits_no_mkldnn"][:count], case.golden["logits"][:count])
    assert agreement(logits, case.golden["logits"][:count]) >= own


@pytest.mark.parametrize("name", NAMES)
def test_every_level_that_differs_is_explained(cases: dict[str, Case], name: str) -> None:
    case = cases[name]
    model = build_model(case.packed.network, name=name, tool="test 1", metadata={})
    sample = case.images[:40]
    exported = open_session(with_outputs(model), "cpu").run_all(sample)
    found = compare_levels(case.original.module, sample, exported)
    assert found.compared > 0
    assert (found.unexplained, found.values_outside) == (0, 0), found.offenders


@pytest.mark.parametrize("name", ["mnist_resnet10_4bit_uniform", "cifar100_res32_2bit"])
def test_negative_thresholds_are_real(cases: dict[str, Case], name: str) -> None:
    case = cases[name]
    state = case.original.module.state_dict()
    assert any(value < 0 for key, value in state.items() if key.endswith("weight_alpha")) == (
        name == "cifar100_res32_2bit"
    )


# --- multi-bit weights ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lenet(shelf: Shelf) -> Path:
    return shelf.export("alq_lenet5")


def bits_of_formula(reference: Path) -> int:
    """Bases of one bit a weight, coordinates of 32 bits, and masks: all that was trained."""
    total = 0
    for layer in load_original(reference / LENET, Choices()).multi_bit.values():
        used = int(layer.mask.sum())
        total += used * (layer.bases.shape[-1] + 32) + layer.mask.size
    return total


def test_multi_bit_logits_are_the_golden_ones(lenet: Path, shelf: Shelf) -> None:
    images, golden = shelf.images("alq_lenet5"), shelf.golden("alq_lenet5")["logits"]
    session = open_session((lenet / "model.onnx").read_bytes(), "cpu")
    logits = np.concatenate([session.run(batch) for batch in np.array_split(images, 20)])
    assert np.abs(logits - golden).max() < 1e-4
    oracle = load_packed(lenet).run(images[:50])
    assert np.abs(oracle - golden[:50]).max() < 1e-4


def test_multi_bit_weights_are_the_trained_ones_bit_for_bit(lenet: Path, reference: Path) -> None:
    state = load_checkpoint(reference / LENET).state
    layers = load_packed(lenet).layers
    assert len(layers) == 4
    for name, layer in layers.items():
        assert layer.weights().tobytes() == state[f"{name}.weight"].numpy().tobytes(), name


def test_bases_that_contradict_the_weights_are_refused(reference: Path) -> None:
    checkpoint = load_checkpoint(reference / LENET)
    changed = dict(checkpoint.state)
    changed["features.3.weight"] = changed["features.3.weight"] + 0.1
    with pytest.raises(RecognitionError, match="contradict") as caught:
        rebuild(replace(checkpoint, state=changed), Choices(alpha_terms=3))
    assert caught.value.got == "25000 of 25000 weights differ"


def test_multi_bit_files_are_as_small_as_the_literature_counts(
    lenet: Path, reference: Path
) -> None:
    # The formula counts neither biases nor what describes network and inputs: 5 KB for them.
    limit = bits_of_formula(reference) / 8 + 5120
    assert (lenet / "model.apot.safetensors").stat().st_size <= limit


def test_average_bits_are_those_of_the_training_code(lenet: Path, reference: Path) -> None:
    found = apot_export.inspect(lenet).bits
    trained = load_original(reference / LENET, Choices()).multi_bit
    filters = [int(layer.mask.sum()) for layer in trained.values()]
    groups = [layer.mask.shape[0] * layer.mask.shape[1] for layer in trained.values()]
    weights = [groups[i] * layer.bases.shape[-1] for i, layer in enumerate(trained.values())]
    averages = [count / size for count, size in zip(filters, groups, strict=True)]
    overall = np.average(averages, weights=weights)
    assert [layer.filters for layer in found.layers] == filters
    assert found.plain_lines() == [
        "currrent binary filter number per layer: ",
        *map(str, filters),
        "currrent average bitwidth per layer: ",
        *(f"{average:.4f}" for average in averages),
        f"currrent average bitwidth:  {overall:.4f}",
    ]


def test_coordinates_as_sums_of_powers_of_two(reference: Path, tmp_path: Path) -> None:
    errors = [
        convert(reference / LENET, tmp_path / f"terms{terms}", alpha_terms=terms).weight_error
        for terms in (1, 2, 3)
    ]
    assert errors == sorted(errors, reverse=True)
    assert 0 < errors[2] < 0.01
    report = verify(tmp_path / "terms3", data=reference / "datasets/MNIST", device="cpu", limit=500)
    assert report.verdict == "PASS", report.failures
