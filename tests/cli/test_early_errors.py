"""Mistakes in paths are told before PyTorch is loaded, which takes seconds."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import EXPORT

EXAMPLE = Path("examples", "digits", "res8_4bit", "model_best.pth.tar")
_PROGRAM = """
import sys
from apot_export_cli.app import app
try:
    app(sys.argv[1:])
finally:
    assert "torch" not in sys.modules, "PyTorch was loaded"
"""


@pytest.fixture(scope="module")
def export(exported: Path) -> Path:
    return exported / EXPORT


def refused(*arguments: object) -> str:
    """Run a command that must fail without PyTorch; return what it says."""
    command = [sys.executable, "-c", _PROGRAM, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("Error: "), done.stderr
    return done.stderr


def test_paths_that_are_not_there(tmp_path: Path) -> None:
    gone = tmp_path / "gone" / "model_best.pth.tar"
    words = (
        "convert",
        "convert --in-process",
        "inspect",
        "inspect cost",
        "inspect identify",
        "verify",
        "tune",
    )
    for verb in map(str.split, words):
        assert f"{tmp_path} has no gone" in refused(*verb, gone)
    gone.parent.symlink_to("nowhere")
    assert "a link to nowhere, which is not there" in refused("convert", gone.parent)


def test_paths_of_another_kind(tmp_path: Path, export: Path) -> None:
    model = export / "model.onnx"
    assert "is not a file" in refused("convert", tmp_path)
    assert "the ONNX model of an export" in refused("convert", model)
    assert "a folder without a readable manifest.json" in refused("verify", tmp_path)
    assert f"name the folder: {export}" in refused("verify", model)


def test_output_that_exists(export: Path, project: Path) -> None:
    assert "exists already" in refused("convert", project / EXAMPLE, "-o", export)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--sides", "ort,ort-gpu"], "Sides are what"),
        (["--backends", "numpy"], "two or more of numpy"),
        (["--dataset", "folder", "--data", "nowhere"], "nowhere"),
        (["--dataset", "cifar10"], "does not fit the network"),
        (["--images", "nowhere.npz"], "The arrays cannot be used"),
        (["--reference", "nowhere.npz"], "The arrays cannot be used"),
        (["--checkpoint", "nowhere.pth.tar"], "has no nowhere.pth.tar"),
        (["--checkpoint", __file__], "is not the one that the export was made from"),
    ],
)
def test_options_of_verify(export: Path, options: list[str], said: str) -> None:
    assert said in refused("verify", export, *options)


def test_a_changed_file_of_an_export(tmp_path: Path, export: Path) -> None:
    changed = shutil.copytree(export, tmp_path / EXPORT)
    with (changed / "model.onnx").open("ab") as file:
        file.write(b"x")
    assert "truncated or changed" in refused("verify", changed)
