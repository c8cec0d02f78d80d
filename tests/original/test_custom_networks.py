"""Networks of the user's own: layers in the style of the training codes, from a user's module."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer import Typer
from typer.testing import CliRunner, Result

import apot_export
from apot_export.artifacts.directory import ONNX_MODEL, read_manifest
from apot_export.artifacts.packed import load_packed
from apot_export.errors import (
    ApotExportError,
    BitWidthError,
    CodebookError,
    ExportError,
    ModelError,
    RecognitionError,
)
from apot_export.original.choices import Choices
from apot_export.original.custom import (
    ModelSpec,
    input_shape_of,
    original_of_module,
)
from apot_export.original.quantization import Quantization
from apot_export.original.quantized_layers import FirstConv2d, LastLinear, QuantConv2d
from apot_export.runtimes.onnx_runtime import open_session

APP: Typer = import_module("apot_export_cli.app").app  # of the folder cli/
parse_arguments = import_module("apot_export_cli._parsing").parse_arguments
SHAPE = (1, 8, 8)
Make = Callable[..., nn.Module]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    shutil.copy(Path(__file__).parents[1] / "support/training_codes.py", folder / "own_unet.py")
    (folder / "own_broken.py").write_text("import argparse\n\nraise SystemExit(2)\n")
    (folder / "own_lacking.py").write_text("import a_library_that_is_not_there\n")
    return folder


@pytest.fixture(scope="module")
def make(folder: Path) -> Iterator[Make]:
    sys.path.insert(0, str(folder))
    try:
        yield import_module("own_unet").make
    finally:
        sys.path.remove(str(folder))


def save(module: nn.Module, path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    state = {f"module.{key}": value for key, value in module.state_dict().items()}
    torch.save({"state_dict": state}, path)
    return path


def digits() -> torch.Tensor:
    return torch.rand((16, *SHAPE), generator=torch.Generator().manual_seed(5)) * 3 - 1


STYLES: dict[str, dict[str, Any]] = {
    "v1": {"kind": "v1"},
    "v1 3 bits": {"kind": "v1", "bit": 3},
    "v2": {"kind": "v2"},
    "v2 2 bits": {"kind": "v2", "bit": 2},
    "v2 uniform": {"kind": "v2", "power": False},
    "non-zero": {"kind": "nonzero", "bit": 4},
    "non-zero grid": {"kind": "nonzero", "bit": 2, "z": 3},
}
FAMILIES = {"v1": "apot-v1", "v2": "apot-v2", "nonzero": "nonzero"}


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_a_checkpoint_with_its_factory_is_converted_and_verified(
    make: Make, folder: Path, tmp_path: Path, style: dict[str, Any]
) -> None:
    network = make(**style)
    checkpoint = save(network, folder / "unet.pth.tar")
    result = apot_export.convert(
        checkpoint,
        tmp_path / "export",
        model="own_unet:make",
        model_arguments={"seed": 7, **style},
        input_shape=SHAPE,
    )
    assert result.family == FAMILIES[style["kind"]]
    assert (result.bits, result.bits_from) == (style.get("bit", 4), "network")
    assert result.method == ("uniform" if style.get("power") is False else "apot")
    assert result.architecture == "SmallUNet"
    assert "unused" not in load_packed(result.path).layers

    images = digits()
    with torch.no_grad():
        expected = network(images).numpy()
    session = open_session((result.path / ONNX_MODEL).read_bytes(), "cpu")
    agreeing = np.isclose(session.run(images.numpy()), expected, rtol=1e-4, atol=1e-4).all(axis=1)
    # A level that float noise moves changes an image's logits: rarely, and never the rest.
    assert agreeing.mean() > 0.8

    report = apot_export.verify(
        result.path, model="own_unet:make", checkpoint=checkpoint, dataset="digits", limit=64
    )
    assert not report.failures
    assert report.levels.compared
    assert report.levels.unexplained == 0
    assert report.weights.exact == report.weights.layers


def test_a_module_in_memory_is_converted_and_stays_as_it_is(make: Make, tmp_path: Path) -> None:
    network = make(kind="v1").train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    types = [type(module) for module in network.modules()]
    result = apot_export.convert(network, tmp_path / "export", input_shape=SHAPE)
    assert [type(module) for module in network.modules()] == types
    assert all(module.training for module in network.modules())
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    manifest = read_manifest(result.path)
    assert manifest["checkpoint"] == {"path": None, "sha256": None}
    assert manifest["checkpoint_sha256"] is None
    assert len(manifest["state_sha256"]) == 64

    report = apot_export.verify(result.path, original=network, dataset="digits", limit=32)
    assert not report.failures
    alone = apot_export.verify(result.path, dataset="digits", limit=32)
    assert alone.verdict == "PASS, without its original"
    with pytest.raises(ExportError, match="not the one"):
        apot_export.verify(result.path, original=make(seed=2, kind="v1"), dataset="digits")


def test_our_own_layers_may_be_used_as_they_are(tmp_path: Path) -> None:
    torch.manual_seed(0)
    kind = Quantization(family="apot-v2", weight_bits=3, activation_bits=3)
    network = nn.Sequential(
        FirstConv2d(1, 4, 3),
        nn.ReLU(),
        QuantConv2d(4, 5, 3, quantization=kind),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        LastLinear(5, 10),
    )
    result = apot_export.convert(network, tmp_path / "export", input_shape=SHAPE)
    assert (result.family, result.bits, result.bits_from) == ("apot-v2", 3, "network")
    assert not apot_export.verify(
        result.path, original=network, dataset="digits", limit=32
    ).failures


# --- the command line -----------------------------------------------------------------------------


def command(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> Result:
    """Run a command in a folder, where the user's module has not been imported yet."""
    monkeypatch.chdir(folder)
    monkeypatch.delitem(sys.modules, "own_unet", raising=False)
    return CliRunner().invoke(APP, list(arguments))


def test_the_command_line(
    make: Make, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = save(make(kind="v2", bit=3), folder / "unet_3bit.pth.tar")
    export = tmp_path / "export"
    said = ("--model", "own_unet:make", "--model-kwarg", "bit=3", "--model-kwarg", "kind=v2")
    arguments = ("convert", checkpoint.name, "-o", str(export), *said, "--input-shape", "1,8,8")
    converted = command(monkeypatch, folder, *arguments)
    assert converted.exit_code == 0, converted.output
    assert "SmallUNet, family apot-v2" in converted.stdout
    assert json.loads((export / "manifest.json").read_text())["model"] == {
        "factory": "own_unet:make",
        "arguments": {"bit": "3", "kind": "'v2'"},
        "input_shape": [1, 8, 8],
    }
    options = ("verify", str(export), "--dataset", "digits", "--limit", "32", "--device", "cpu")
    refused = command(monkeypatch, tmp_path, *options)
    assert refused.exit_code == 2
    assert "--model own_unet:make" in refused.stderr
    assert "own_unet" not in sys.modules
    verified = command(monkeypatch, tmp_path, *options, "--model", "own_unet:make", "--json")
    assert verified.exit_code == 0, verified.output
    assert json.loads(verified.stdout)["verdict"] == "PASS"


def test_a_factory_is_named_only_where_the_export_has_one(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = apot_export.convert(make(), tmp_path / "export", input_shape=SHAPE).path
    result = command(monkeypatch, tmp_path, "verify", str(export), "--model", "own_unet:make")
    assert result.exit_code == 2
    assert "apot_export.verify(export, original=network)" in result.stderr


# --- what is refused ------------------------------------------------------------------------------

REFUSED: dict[str, tuple[dict[str, Any], type[ApotExportError], str]] = {
    "module missing": ({"model": "own_nothing:make"}, ModelError, "no such module"),
    "factory missing": ({"model": "own_unet:nothing"}, ModelError, "no such factory"),
    "no factory": ({"model": "own_unet"}, ModelError, "PACKAGE.MODULE:FACTORY"),
    "no callable": ({"model": "own_unet:ADDENDS"}, ModelError, "cannot be called"),
    "factory raises": ({"model": "own_unet:fails"}, ModelError, "no data"),
    "module exits": ({"model": "own_broken:make"}, ModelError, "SystemExit"),
    "module lacks": ({"model": "own_lacking:make"}, ModelError, "a_library_that_is_not_there"),
    "no module": ({"model": "own_unet:not_a_network"}, ModelError, "returned no torch.nn.Module"),
    "bad argument": (
        {"model": "own_unet:SmallUNet", "model_arguments": {"widht": 3}},
        ModelError,
        "widht",
    ),
    "other keys": ({"model_arguments": {"kind": "v1"}}, RecognitionError, "wgt_alpha"),
    "other shapes": ({"model_arguments": {"width": 5}}, RecognitionError, "inc.weight"),
    "input shape missing": ({"input_shape": None}, ModelError, "--input-shape"),
    "input shape": ({"input_shape": "1,8"}, ModelError, "1,8"),
    "images that do not fit": ({"input_shape": (3, 8, 8)}, ModelError, "does not run"),
    "factory missing, shape there": ({"model": None}, RecognitionError, "--model"),
    "other bits": ({"bits": 3}, BitWidthError, "another bit-width"),
    "other level set": ({"method": "uniform"}, CodebookError, "level set"),
    "power-of-two level set": ({"method": "pot"}, CodebookError, "level set"),
    "without normalisation": (
        {"normalize_weights": False},
        RecognitionError,
        "something else than its family's formula",
    ),
}


@pytest.mark.parametrize(("said", "kind", "text"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_go_together_is_refused(
    make: Make,
    folder: Path,
    tmp_path: Path,
    said: dict[str, Any],
    kind: type[ApotExportError],
    text: str,
) -> None:
    checkpoint = save(make(), folder / "plain.pth.tar")
    options: dict[str, Any] = {"model": "own_unet:make", "input_shape": SHAPE, **said}
    with pytest.raises(kind) as caught:
        apot_export.convert(checkpoint, tmp_path / "export", **options)
    assert text in str(caught.value)
    assert not (tmp_path / "export").exists()


def test_a_name_that_contradicts_the_layers_is_refused(
    make: Make, folder: Path, tmp_path: Path
) -> None:
    checkpoint = save(make(bit=4), folder / "net_3bit.pth.tar")
    options: dict[str, Any] = {"model": "own_unet:make", "input_shape": SHAPE}
    with pytest.raises(BitWidthError, match="name"):
        apot_export.convert(checkpoint, tmp_path / "export", **options)
    confirmed = apot_export.convert(checkpoint, tmp_path / "export", bits=4, **options)
    assert confirmed.bits_from == "option"


def test_a_layer_that_does_not_say_its_bits_has_those_that_it_computes(
    make: Make,
) -> None:
    network = make(bit=3)
    for layer in list(network.modules()):
        if hasattr(layer, "bit"):
            layer.forward = Remembering(layer)
            del layer.bit, layer.power
    for choices, source in ((Choices(), "network"), (Choices(bits=3), "option")):
        original = original_of_module(network, SHAPE, choices)
        assert original.quantization.weight_bits == 3
        assert original.plan.bits.source == source
    with pytest.raises(RecognitionError, match="something else"):
        original_of_module(network, SHAPE, Choices(bits=4))


class Remembering:
    """The forward pass of a layer whose object does not say its bits."""

    def __init__(self, layer: Any) -> None:
        self.layer, self.bit, self.power = layer, layer.bit, layer.power
        self.function = type(layer).forward

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        twin = copy.copy(self.layer)
        twin.bit, twin.power = self.bit, self.power
        output: torch.Tensor = self.function(twin, image)
        return output


# --- what is said ---------------------------------------------------------------------------------


def test_arguments_that_cannot_be_read_are_refused() -> None:
    assert parse_arguments(["a=[1, 'x']", "b=", "c=x=y"]) == {"a": [1, "x"], "b": "", "c": "x=y"}
    for texts in (["a"], ["=1"], ["a=1", "a=2"], ["1a=2"]):
        with pytest.raises(ModelError):
            parse_arguments(texts)
    with pytest.raises(ModelError, match="literal"):
        ModelSpec(factory="m:f", input_shape=SHAPE, arguments={"device": torch.device("cpu")})


@pytest.mark.parametrize("said", ["", "3", "3,32", "3,32,x", "3,0,3", "1,2,3,4"])
def test_input_shapes_that_are_none(said: str) -> None:
    with pytest.raises(ModelError):
        input_shape_of(said)
