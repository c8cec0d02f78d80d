"""The same checkpoint gives the same bytes, whatever the environment and the memory layout."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from apot_export import convert, load_packed
from apot_export.artifacts.directory import MANIFEST, ONNX_MODEL, PACKED_MODEL, README, SAMPLE
from apot_export.network import CodedLayer
from apot_export.original.checkpoint import load_checkpoint
from tests.support.commands import COMMAND
from tests.support.published import PUBLISHED

DIGITS = Path(__file__).parents[2] / "examples/digits/res8_4bit/model_best.pth.tar"
CODES = "a7fb4ed3886f5f4b64845dc332862a16eb015b1941a700cbffb2862e3707f624"
"""SHA-256 of the codes of the digits network, layer by layer."""
FILES = {
    "manifest.json": "d8e643fc5a796f64ad5deecd4db22dffd9e93ff532c4fd645e7a73edff7ed73d",
    "model.apot.safetensors": "f17314e69f766116ca3144c7cfbb5090d6d75d2f6f5358d5a8d8254722f96d46",
    "model.integer.onnx": "f2590b02dffe53a34e663b9dbc0da42e11f6eb31b36b561bff5a5076cc554afa",
    "README.md": "83e961a86bdaef654069b3d0883d3fb0b7db891486510bad74e08a9f5c053fe2",
    "sample.png": "36f2c6fa5e787035f5f4abb714115d856926b19cb7b58bec344685ed15a27550",
    "model.onnx": "a866b73fd8586b43dbb0de4027bbc73556bbc8b9451f641c2eb22587601a694f",
}
"""SHA-256 of every file of the digits network's export, converted where the checkpoint lies.

Apart from `sample.npz`, which states float logits as the machine computes them; its digest in the
manifest is left out here, too. Where one of them changes on purpose, users' files do: say so in
CHANGELOG.md.
"""
LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "channels last": lambda weight: weight.to(memory_format=torch.channels_last),
    "transposed": lambda weight: weight.transpose(0, 1).contiguous().transpose(0, 1),
    "sliced": lambda weight: torch.cat([weight, -weight])[: len(weight)],
}
EIGHT_BIT = [
    name
    for name, published in PUBLISHED.items()
    if not published.checkpoint.startswith(("first-release", "ALQ", "ImageNet"))
]


def digest(export: Path) -> str:
    """Return the digest of all codes, with their values."""
    found = hashlib.sha256()
    for layer in load_packed(export).layers.values():
        assert isinstance(layer, CodedLayer)
        found.update(layer.packed.tobytes())
        found.update(layer.values.tobytes())
    return found.hexdigest()


def test_codes_of_the_digits_network(tmp_path: Path) -> None:
    assert digest(convert(DIGITS, tmp_path / "export").path) == CODES


def converted(folder: Path, umask: int = 0o022, **environment: str) -> dict[str, str]:
    """Convert a copy of the checkpoint in a new folder; return the digest of every file."""
    folder.mkdir(parents=True)
    shutil.copy(DIGITS, folder / "res8_4bit.pth.tar")
    line = f'umask {umask:03o}; cd "$1"; exec "$2" convert res8_4bit.pth.tar --integer -o export'
    command = ["/bin/sh", "-c", line, "sh", str(folder), str(COMMAND)]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    files = sorted((folder / "export").iterdir())
    assert all(file.stat().st_mode & 0o777 == 0o666 & ~umask for file in files)
    contents = {file.name: file.read_bytes() for file in files}
    of_sample = hashlib.sha256(contents.pop(SAMPLE)).hexdigest()
    contents[MANIFEST] = contents[MANIFEST].replace(of_sample.encode(), b"")
    found = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    return {**found, SAMPLE: of_sample}


@pytest.fixture(scope="module")
def usual_sample(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the digest of the sample that this machine makes in the usual environment."""
    return converted(tmp_path_factory.mktemp("usual") / "folder")[SAMPLE]


ENVIRONMENTS: dict[str, dict[str, str]] = {
    "C": {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "TZ": "UTC"},
    "C.UTF-8": {"OMP_NUM_THREADS": "2", "PYTHONHASHSEED": "7", "PYTHONUTF8": "0"},
    "tr_TR.UTF-8": {"OMP_NUM_THREADS": "64", "PYTHONHASHSEED": "1", "TZ": "Asia/Kathmandu"},
}
"""By the locale, which every C library has, or which is made for the test."""


def made_locale(name: str, folder: Path) -> dict[str, str]:
    """Compile a locale into a folder, which needs no rights; return the variables that use it."""
    language, characters = name.split(".")
    command = ["localedef", "-i", language, "-f", characters, str(folder / name)]
    if not shutil.which("localedef") or subprocess.run(command, check=False).returncode:
        pytest.skip(f"{name} cannot be made here: no localedef, or no sources of locales")
    return {"LC_ALL": name, "LOCPATH": str(folder)}


@pytest.mark.parametrize("locale", ENVIRONMENTS)
def test_the_environment_changes_no_byte(locale: str, tmp_path: Path, usual_sample: str) -> None:
    variables = {"LC_ALL": locale}
    if not locale.startswith("C"):
        variables = made_locale(locale, tmp_path)
    use = [sys.executable, "-c", "import locale; locale.setlocale(locale.LC_ALL, '')"]
    subprocess.run(use, env={**os.environ, **variables}, check=True)
    number = list(ENVIRONMENTS).index(locale)
    umask = (0o022, 0o077, 0o002)[number]
    folder = tmp_path / ("folder", "with space", "gün")[number]
    found = converted(folder, umask, **ENVIRONMENTS[locale], **variables)
    assert found.pop(SAMPLE) == usual_sample
    assert found == FILES


def test_a_renamed_checkpoint_changes_names_alone(tmp_path: Path) -> None:
    contents = []
    for name in ("first_4bit", "renamed_4bit"):
        shutil.copy(DIGITS, tmp_path / f"{name}.pth")
        export = convert(tmp_path / f"{name}.pth", tmp_path / name).path
        model = onnx.load(export / ONNX_MODEL)
        assert model.graph.name == name
        model.graph.name = ""
        manifest = json.loads((export / MANIFEST).read_text(encoding="utf-8"))
        assert manifest.pop("name") == name
        assert manifest["checkpoint"].pop("path") == f"../{name}.pth"
        assert (export / README).read_text(encoding="utf-8").startswith(f"# {name}\n")
        for file in (ONNX_MODEL, README):
            del manifest["files"][file]
        packed = (export / PACKED_MODEL).read_bytes()
        contents.append((model.SerializeToString(deterministic=True), manifest, packed))
    assert contents[0] == contents[1]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_memory_layout_changes_no_code(layout: str, tmp_path: Path) -> None:
    content = torch.load(DIGITS, map_location="cpu", weights_only=True)
    state = content["state_dict"]
    for key, value in state.items():
        if value.ndim == 4:
            state[key] = LAYOUTS[layout](value)
            assert torch.equal(state[key], value)
    path = tmp_path / "res8_4bit.pth.tar"
    torch.save(content, path)
    assert digest(convert(path, tmp_path / "export").path) == CODES


@pytest.mark.parametrize("name", EIGHT_BIT)
def test_gradients_term_changes_signs_of_zeros_alone(name: str, reference: Path) -> None:
    """The training codes convolve with (q - w) + w: in 8-bit layers that is q, with +0 for -0."""
    state = load_checkpoint(reference / "checkpoints" / PUBLISHED[name].checkpoint).state
    with np.load(reference / f"golden/{name}.npz") as golden:
        layers = {key: golden[f"weight_q/{key}"] for key in ("conv1", "fc")}
    for layer, quantized in layers.items():
        weight = state[f"{layer}.weight"].numpy()
        computed_with = (quantized - weight) + weight
        positive = np.where(quantized == 0, np.float32(0), quantized)
        assert np.array_equal(computed_with.view(np.uint32), positive.view(np.uint32))
        zero = quantized == 0
        assert np.array_equal(np.signbit(quantized[zero]), np.signbit(weight[zero]))
