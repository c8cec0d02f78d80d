"""`verify` against an original that the user states, whatever the manifest records."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import apot_export
from apot_export.artifacts.directory import read_manifest
from apot_export.errors import ApotExportError, ExportError, ModelError
from apot_export.original.choices import Choices
from apot_export.original.quantization import LayerBits
from apot_export.verification import RunOptions
from apot_export.verification.running.shards import run_shards
from tests.support.commands import run
from tests.support.workshop import DIGITS, Workshop, open_workshop


@pytest.fixture(scope="module")
def workshop(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return open_workshop(project / DIGITS, tmp_path_factory.mktemp("stated"))


@pytest.fixture(scope="module")
def another_file(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint with the same tensors, another digest and a name that tells nothing."""
    content = torch.load(workshop.checkpoint, weights_only=True, map_location="cpu")
    path = tmp_path_factory.mktemp("another") / "network.pth.tar"
    torch.save({**content, "epoch": content["epoch"] + 1}, path)
    return path


# --- what is stated -------------------------------------------------------------------------------


def test_the_right_statement_passes_and_the_report_says_what_it_was(workshop: Workshop) -> None:
    report = workshop.verify(workshop.export, bits=4)
    assert (report.verdict, report.failures) == ("PASS", ())
    assert report.settings["original"] == {
        "stated": True,
        "checkpoint": workshop.checkpoint.name,
        "checkpoint_sha256": read_manifest(workshop.export)["checkpoint"]["sha256"],
        "state_sha256": None,
        "model": None,
        "choices": {"bits": 4},
    }
    attached = read_manifest(workshop.export)["verification"]
    assert attached["settings"]["original"] == report.settings["original"]
    recorded = workshop.verify(workshop.export).settings["original"]
    assert recorded == {**report.settings["original"], "stated": False}


def test_a_manifest_without_the_later_members_verifies(workshop: Workshop, tmp_path: Path) -> None:
    export = tmp_path / "export"
    shutil.copytree(workshop.export, export)
    manifest = read_manifest(export)
    manifest.pop("assumptions")
    for name in ("activation_method", "first_last", "family"):
        manifest["choices"].pop(name)
    path = export / "manifest.json"
    path.write_text(json.dumps(manifest), encoding="utf-8")
    report = workshop.verify(export, checkpoint=workshop.checkpoint)
    assert (report.verdict, report.settings["assumptions"]) == ("PASS", None)


WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "bits": ({"bits": 3}, "wrong bits", "are exactly those of 4 bits, apot"),
    "choices": ({"choices": Choices(bits=3)}, "wrong bits", "are exactly those of 4 bits, apot"),
    "level set": ({"method": "pot"}, "wrong bits", "are exactly those of 4 bits, apot"),
    "level set of activations": (
        {"activation_method": "uniform"},
        "wrong bits",
        "steps are those of 4 bits, apot",
    ),
    "first and last layer": (
        {"first_last": "float"},
        "wrong bits",
        "8 bits, while the original's are floats",
    ),
    "bits of activations": ({"activation_bits": 3}, "wrong bits", "steps are those of 4 bits"),
    "bits of layers": (
        {"layer_bits": (LayerBits(pattern="layer2.*", weight_bits=3, activation_bits=4),)},
        "wrong bits",
        "are exactly those of 4 bits, apot",
    ),
    "normalisation": (
        {"normalize_weights": False},
        "missing weight normalisation",
        "normalised, which the original's are not",
    ),
}


@pytest.mark.parametrize(("stated", "cause", "evidence"), WRONG.values(), ids=WRONG)
def test_another_original_than_the_exports_is_found_with_its_cause(
    workshop: Workshop, stated: dict[str, Any], cause: str, evidence: str
) -> None:
    report = workshop.verify(workshop.export, **stated)
    assert report.verdict == "FAIL"
    assert report.divergence is not None
    assert report.divergence.cause == cause
    assert evidence in report.divergence.evidence
    assert report.settings["original"]["stated"]


def test_the_divisor_of_old_code_is_found_both_ways(workshop: Workshop, tmp_path: Path) -> None:
    for legacy in (False, True):
        choices = Choices(method="uniform", legacy_divisor=legacy)
        export = apot_export.convert(
            workshop.checkpoint, tmp_path / str(legacy), choices=choices, trust_options=True
        )
        assert workshop.verify(export.path, choices=choices, ignore_record=True).verdict == "PASS"
        other = dataclasses.replace(choices, legacy_divisor=not legacy)
        report = workshop.verify(export.path, choices=other)
        assert report.verdict == "FAIL"
        assert report.divergence is not None
        assert report.divergence.cause == "legacy divisor"


def test_an_export_made_with_a_wrong_option_passes_its_manifest_and_fails_the_statement(
    workshop: Workshop, tmp_path: Path
) -> None:
    """What the manifest records fills no gap of a statement."""
    export = apot_export.convert(
        workshop.checkpoint, tmp_path / "export", normalize_weights=False, trust_options=True
    )
    assert workshop.verify(export.path, ignore_record=True).verdict == "PASS"
    report = workshop.verify(export.path, bits=4)
    assert report.divergence is not None
    assert report.divergence.cause == "missing weight normalisation"


def test_another_file_needs_a_statement(workshop: Workshop, another_file: Path) -> None:
    with pytest.raises(ExportError, match="not the one that the export was made") as caught:
        workshop.verify(workshop.export, checkpoint=another_file)
    assert caught.value.fix is not None
    assert "--checkpoint FILE --bits N" in caught.value.fix
    report = workshop.verify(workshop.export, checkpoint=another_file, bits=4)
    assert report.verdict == "PASS"
    assert report.settings["original"]["checkpoint"] == "network.pth.tar"
    # What is left out comes from the file: its batch-norms state 4 bits, where no name does.
    report = workshop.verify(workshop.export, checkpoint=another_file, method="apot")
    assert report.verdict == "PASS"


def test_choices_alone_are_of_the_recorded_file(
    workshop: Workshop, another_file: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "res8_4bit"
    folder.mkdir()
    checkpoint = folder / "model_best.pth.tar"
    shutil.copy(workshop.checkpoint, checkpoint)
    export = apot_export.convert(checkpoint, tmp_path / "export").path
    options = {"checkpoint": None, "bits": 3}
    assert workshop.verify(export, **options).verdict == "FAIL"
    shutil.copy(another_file, checkpoint)
    with pytest.raises(ExportError, match="not the one that the export was made from"):
        workshop.verify(export, **options)


def test_options_come_together_or_one_by_one(workshop: Workshop) -> None:
    options = RunOptions(device="cpu", limit=32, seed=1)
    report = apot_export.verify(
        workshop.export, options, checkpoint=workshop.checkpoint, limit=20, bits=4
    )
    assert (report.images, report.settings["seed"]) == (20, 1)
    with pytest.raises(TypeError, match="lmit"):
        workshop.verify(workshop.export, lmit=3)


def test_a_run_against_another_original_is_not_resumed(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*arguments: Any, **options: Any) -> Iterator[Any]:
        yield next(run_shards(*arguments, **options))
        raise KeyboardInterrupt

    options = {"limit": 40, "batch_size": 20}
    with monkeypatch.context() as patch:
        patch.setattr("apot_export.verification._run.run_shards", stopped)
        with pytest.raises(KeyboardInterrupt):
            workshop.verify(workshop.export, bits=4, **options)
    with pytest.raises(ExportError, match="another one"):
        workshop.verify(workshop.export, resume=True, **options)
    assert workshop.verify(workshop.export, bits=4, resume=True, **options).images == 40


# --- custom networks ------------------------------------------------------------------------------

FACTORY = """
from torch import nn
from apot_export.original.quantization import Quantization
from apot_export.original.quantized_layers import FirstConv2d, LastLinear, QuantConv2d

def make(bits, width=4):
    kind = Quantization(family="apot-v2", weight_bits=bits, activation_bits=bits)
    return nn.Sequential(
        FirstConv2d(1, width, 3), nn.ReLU(), QuantConv2d(width, 5, 3, quantization=kind),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), LastLinear(5, 10),
    )
"""


@pytest.fixture
def custom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return how to convert a custom network whose factory lies beside its checkpoint."""
    name = "stated_factory"
    (tmp_path / f"{name}.py").write_text(FACTORY, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, name, raising=False)
    torch.manual_seed(0)
    make = __import__(name).make
    torch.save({"state_dict": make(4).state_dict()}, tmp_path / "custom.pth.tar")
    return {
        "checkpoint": tmp_path / "custom.pth.tar",
        "model": f"{name}:make",
        "model_arguments": {"bits": 4},
    }


def test_a_custom_network_is_stated_by_its_factory(custom: dict[str, Any], tmp_path: Path) -> None:
    export = apot_export.convert(**custom, directory=tmp_path / "export", input_shape="1,8,8").path
    options = {**custom, "dataset": "digits", "device": "cpu", "limit": 32}
    recorded = apot_export.verify(export, **{**options, "model_arguments": None})
    assert (recorded.verdict, recorded.settings["original"]["stated"]) == ("PASS", False)
    assert recorded.settings["original"]["model"]["arguments"] == {"bits": "4"}
    stated = apot_export.verify(export, **options)
    assert (stated.verdict, stated.settings["original"]["stated"]) == ("PASS", True)
    wrong = apot_export.verify(export, **{**options, "model_arguments": {"bits": 3}})
    assert wrong.divergence is not None
    assert wrong.divergence.cause == "wrong bits"
    with pytest.raises(ApotExportError, match="shape"):
        apot_export.verify(export, **{**options, "model_arguments": {"bits": 4, "width": 6}})
    with pytest.raises(ModelError, match="go together"):
        apot_export.verify(export, original=torch.nn.Identity(), **options)


def test_a_factory_states_the_original_of_an_export_without_one(
    custom: dict[str, Any], workshop: Workshop
) -> None:
    with pytest.raises(ExportError, match="another network than the export") as caught:
        workshop.verify(workshop.export, **custom)
    assert "layer1.0.conv1 [8, 8, 3, 3]" in str(caught.value)


def test_a_network_of_other_images_is_refused(workshop: Workshop, reference: Path) -> None:
    other = reference / "checkpoints/CIFAR10/result/res20_4bit/model_best.pth.tar"
    with pytest.raises(ExportError, match="other images"):
        workshop.verify(workshop.export, checkpoint=other, bits=4)


# --- the command line -----------------------------------------------------------------------------


def verified(workshop: Workshop, *options: object) -> tuple[int, str]:
    common = ("--checkpoint", workshop.checkpoint, "--limit", 20, "--device", "cpu")
    result = run("verify", workshop.export, *common, *options)
    return result.exit_code, result.output


def test_the_command_line_states_an_original(workshop: Workshop, tmp_path: Path) -> None:
    code, output = verified(workshop, "--bits", 4)
    assert (code, "PASS" in output) == (0, True)
    assert "Held to the original that you stated: model_best.pth.tar (SHA-256 " in output
    page = tmp_path / "page.html"
    code, output = verified(workshop, "--layer-bits", "layer1.*=3/4", "--html", page, "--json")
    report = json.loads(output)
    assert (code, report["divergence"]["cause"]) == (1, "wrong bits")
    assert report["settings"]["original"]["choices"]["layer_bits"] == [
        {"pattern": "layer1.*", "weight_bits": 3, "activation_bits": 4}
    ]
    assert report["settings"]["original"]["checkpoint_sha256"] in page.read_text(encoding="utf-8")
    code, output = verified(workshop, "--layer-bits", "layer1.*=3/4")
    assert "layer_bits layer1.*=3/4" in output
    code, output = verified(workshop, "--no-weight-normalization")
    assert (code, "probable cause: missing weight normalisation" in output) == (1, True)
    code, output = verified(workshop, "--input-shape", "1,8,8")
    assert (code, "PASS" in output) == (0, True)
    code, output = verified(workshop, "--input-shape", "1,12,8")
    assert (code, "--input-shape 1,8,8" in output) == (2, True)


def test_a_published_export_against_statements(reference: Path, tmp_path: Path) -> None:
    checkpoint = reference / "checkpoints/CIFAR10/result/res20_4bit/model_best.pth.tar"
    export = apot_export.convert(checkpoint, tmp_path / "res20").path
    images = reference / "datasets/cifar10-test-head"
    arguments = ("--checkpoint", checkpoint, "--dataset", "cifar10", "--data", images)
    for bits, code, text in ((4, 0, "PASS"), (3, 1, "probable cause: wrong bits")):
        result = run("verify", export, *arguments, "--bits", bits, "--limit", 20)
        assert result.exit_code == code, result.output
        assert text in result.output
