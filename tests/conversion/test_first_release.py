"""The first release's checkpoint against what its own code computed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from apot_export.artifacts.packed import load_packed
from apot_export.conversion.convert import convert
from apot_export.conversion.integer_choices import IntegerChoices
from apot_export.errors import IntegerError, RecognitionError
from apot_export.network import FloatLayer
from apot_export.original.checkpoint import load_checkpoint
from apot_export.runtimes.onnx_runtime import open_session
from apot_export.verification import verify
from tests.support.commands import run
from tests.support.published import agreement, cifar, in_batches

FAMILY = "first-release"


@pytest.fixture(scope="module")
def checkpoint(reference: Path) -> Path:
    return reference / "checkpoints/first-release/CIFAR10/checkpoint/res20_3bit.pth.tar"


@pytest.fixture(scope="module")
def export(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(checkpoint, tmp_path_factory.mktemp("first") / "export", family=FAMILY).path


def test_weights_are_the_originals_bit_for_bit(
    export: Path, checkpoint: Path, reference: Path
) -> None:
    layers = load_packed(export).layers
    with np.load(reference / "golden/first_release_res20_3bit.npz") as golden:
        names = [key for key in golden.files if key.startswith("weight_q/")]
        assert len(names) == 20
        for key in names:
            name = key.removeprefix("weight_q/")
            assert layers[name].weights().tobytes() == golden[key].tobytes(), name
    state = load_checkpoint(checkpoint).state
    for name in ("conv1", "fc"):
        assert isinstance(layers[name], FloatLayer)
        assert layers[name].weights().tobytes() == state[f"{name}.weight"].numpy().tobytes()


def test_onnx_runtime_names_the_class_of_the_original_on_every_image(
    export: Path, reference: Path
) -> None:
    session = open_session((export / "model.onnx").read_bytes(), "cpu")
    logits = in_batches(session.run, cifar(reference))
    with np.load(reference / "golden/first_release_res20_3bit.npz") as golden:
        assert len(logits) == 761
        assert agreement(logits, golden["logits"]) == 1
        assert agreement(logits, golden["logits_f64"]) == 1
        noise = np.abs(golden["logits"] - golden["logits_f64"]).mean()
        assert np.abs(logits - golden["logits_f64"]).mean() <= noise + 1e-6


def test_it_verifies(export: Path, reference: Path) -> None:
    data = reference / "datasets/cifar10-test-head"
    report = verify(export, dataset="cifar10", data=data, limit=200)
    assert (report.verdict, report.agreement) == ("PASS", 1)
    sources = {part["what"]: part["source"] for part in report.settings["assumptions"]}
    assert sources["activation levels"] == sources["first and last layer"] == "family"


def test_the_family_must_be_said(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(RecognitionError) as caught:
        convert(checkpoint, tmp_path / "export")
    text = str(caught.value)
    for name in ("--family apot-v1", "--family first-release", "uniform activations"):
        assert name in text
    refused = run("convert", checkpoint, "-o", tmp_path / "export")
    assert refused.exit_code == 2
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize("stated", [{"bits": 4}, {"bits": 3, "method": "uniform"}])
def test_what_one_family_alone_offers_tells_which_it_is(
    reference: Path, tmp_path: Path, stated: dict[str, Any]
) -> None:
    published = reference / "checkpoints/CIFAR10/result/res20_4bit/model_best.pth.tar"
    bare = tmp_path / "network.pth"
    torch.save(load_checkpoint(published).state, bare)
    result = convert(bare, tmp_path / "export", trust_options=True, **stated)
    assert result.family == "apot-v1"


def test_an_integer_network_rounds_the_ends_on_request(checkpoint: Path, tmp_path: Path) -> None:
    integer = IntegerChoices(fraction_bits=12)
    with pytest.raises(IntegerError, match="--first-last 8bit"):
        convert(checkpoint, tmp_path / "floats", family=FAMILY, integer=integer)
    result = convert(
        checkpoint, tmp_path / "rounded", family=FAMILY, first_last="8bit", integer=integer
    )
    assert "model.integer.onnx" in result.files
    assert {"what": "first and last layer", "value": "8bit", "source": "option"} in (
        result.assumptions
    )


def test_what_was_assumed_is_on_the_screen_and_in_the_files(
    checkpoint: Path, tmp_path: Path
) -> None:
    export = tmp_path / "export"
    arguments = ("convert", checkpoint, "-o", export, "--family", FAMILY)
    shown = run(*arguments).stdout
    lines = {" ".join(line.split()) for line in shown.splitlines()}
    assert max(map(len, shown.splitlines()[1:])) <= 80  # the first line holds a path
    assert {
        "weight bits 3 file name",
        "activation bits 3 assumed",
        "activation levels uniform family",
        "first and last layer float family",
        "weight normalisation yes assumed",
    } <= lines
    document = json.loads(run(*arguments, "--force", "--json").stdout)
    manifest = json.loads((export / "manifest.json").read_text(encoding="utf-8"))
    assert document["assumptions"] == manifest["assumptions"]
    assert {tuple(part) for part in document["assumptions"]} == {("what", "value", "source")}
    assert (document["method_from"], document["activation_method"]) == ("default", "uniform")
