"""Exports whose checkpoint is gone: what is proven is proven, and what is not is said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from torch import nn

from apot_export.artifacts.directory import ONNX_MODEL, PACKED_MODEL, read_manifest, write_export
from apot_export.artifacts.packed import load_packed
from apot_export.conversion.convert import convert
from apot_export.errors import KernelError
from apot_export.runtimes import native
from apot_export.verification import verify
from apot_export.verification.page import render_page
from tests.support.commands import CHECKPOINT, EXPORT, document, here, run

VERDICT = "PASS, without its original"


@here
def test_the_verdict_says_that_the_original_was_not_there() -> None:
    Path(CHECKPOINT).unlink()
    result = run("verify", EXPORT, "--sides", "ort,oracle", "--html", "page.html")
    assert result.exit_code == 0, result.output
    assert VERDICT in result.stdout
    words = " ".join(result.stdout.split())
    assert "ONNX and packed file; not compared with the checkpoint" in words
    assert "name it with --checkpoint FILE" in words
    assert "record" in result.stdout
    assert "PyTorch" not in result.stdout
    assert VERDICT in Path("page.html").read_text()
    kept = json.loads((EXPORT / "manifest.json").read_text())["verification"]
    assert kept["verdict"] == VERDICT
    assert kept["settings"]["original"] is None


@here
def test_naming_the_checkpoint_proves_the_rest() -> None:
    Path(CHECKPOINT).rename("elsewhere.pth.tar")
    assert document("verify", EXPORT, "--limit", 20)["verdict"] == VERDICT
    found = document("verify", EXPORT, "--limit", 20, "--checkpoint", "elsewhere.pth.tar")
    assert found["verdict"] == "PASS"
    missing = run("verify", EXPORT, "--checkpoint", "nowhere.pth.tar")
    assert missing.exit_code == 2


@here
def test_everything_but_levels_is_proven() -> None:
    Path(CHECKPOINT).unlink()
    report = verify(EXPORT, limit=40, sides="ort,packed,native")
    layers = load_packed(EXPORT).layers
    assert (report.weights.layers, report.weights.exact) == (len(layers), len(layers))
    assert report.accumulators.compared > 0
    assert report.levels.compared == 0
    assert report.agreement == 1
    assert report.record is not None
    assert VERDICT in render_page(report)


@here
def test_a_compiler_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise KernelError("There is no C compiler.")

    Path(CHECKPOINT).unlink()
    monkeypatch.setattr(native, "compile_network", refuse)
    report = verify(EXPORT, limit=20)
    assert report.verdict == VERDICT
    assert report.settings["baseline"] == "packed"


@here
def test_images_without_labels_and_outputs_of_ones_own() -> None:
    shutil.copytree(EXPORT, "other")
    Path(CHECKPOINT).unlink()
    images = np.random.default_rng(0).uniform(0, 1, (12, 1, 8, 8)).astype(np.float32)
    np.savez("images.npz", images=images)
    found = document("verify", EXPORT, "--images", "images.npz")
    assert (found["verdict"], found["original"]["top1"]) == (VERDICT, None)
    np.savez("outputs.npz", images=images, logits=load_packed(EXPORT).run(images))
    # The user's own outputs are from outside: what they show is a PASS.
    found = document("verify", EXPORT, "--reference", "outputs.npz")
    assert (found["verdict"], found["weights"]["exact"]) == ("PASS", 10)
    np.savez("outputs.npz", images=images, logits=-load_packed(EXPORT).run(images))
    found = document("verify", EXPORT, "--reference", "outputs.npz", "--dataset", "digits")
    assert found["verdict"] == "FAIL"


def _other_codes(model: onnx.ModelProto) -> None:
    codes = next(t for t in model.graph.initializer if "layer2.0.conv2" in t.name and t.raw_data)
    codes.raw_data = bytes(255 - byte for byte in codes.raw_data)


def _other_scale(model: onnx.ModelProto) -> None:
    scale = next(
        t
        for t in model.graph.initializer
        if t.data_type == onnx.TensorProto.FLOAT and len(t.raw_data) == 4 * 16
    )
    scale.raw_data = (np.frombuffer(scale.raw_data, dtype=np.float32) * 1.5).tobytes()


@here
@pytest.mark.parametrize("damage", [_other_codes, _other_scale])
def test_a_model_that_is_not_the_packed_files_network_fails(
    damage: Callable[[onnx.ModelProto], None],
) -> None:
    Path(CHECKPOINT).unlink()
    model = onnx.load(EXPORT / ONNX_MODEL)
    damage(model)
    files = {
        ONNX_MODEL: model.SerializeToString(),
        PACKED_MODEL: (EXPORT / PACKED_MODEL).read_bytes(),
    }
    write_export(Path("damaged"), files, read_manifest(EXPORT), force=False)
    result = run("verify", "damaged")
    assert result.exit_code == 1, result.output
    assert "FAIL" in result.stdout


def test_a_network_that_was_in_memory_has_no_file(tmp_path: Path) -> None:
    module: Any = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    convert(module, tmp_path / "export", input_shape=(1, 8, 8))
    assert verify(tmp_path / "export", dataset="digits", limit=20).verdict == VERDICT
    report = verify(tmp_path / "export", dataset="digits", limit=20, original=module)
    assert report.verdict == "PASS"
