"""Bad checkpoints and contradictions on the command line: one clear error, and nothing left."""

from __future__ import annotations

import math
import re
import shutil
import struct
import zlib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import torch
from typer import Typer
from typer.testing import CliRunner, Result

from apot_export.original.checkpoint import load_checkpoint
from tests.support.commands import EXPORT

EXAMPLE = Path("examples", "digits", "res8_4bit", "model_best.pth.tar")
PUBLISHED = Path("checkpoints", "CIFAR10", "result")
APP: Typer = import_module("apot_export_cli.app").app  # of the folder cli/
DETAIL = re.compile(r" +(where|expected|got|to do): \S")

NAME = "res8_4bit.pth.tar"
WEIGHT = "layer2.0.conv1.weight"
WEIGHT_ALPHA = "layer2.0.conv1.weight_quant.wgt_alpha"
INPUT_ALPHA = "layer2.0.conv1.act_alpha"
MEAN, VARIANCE = "layer2.0.bn1.running_mean", "layer2.0.bn1.running_var"

Tensors = dict[str, torch.Tensor]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(APP, [str(argument) for argument in arguments])


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def refused(folder: Path, *arguments: object) -> str:
    """Run a command that must fail, and return the one error that it prints."""
    before = contents(folder)
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    what, *details = result.stderr.splitlines()
    assert what.startswith("Error: "), result.stderr
    assert "itself failed" not in what, result.stderr
    assert all(DETAIL.match(detail) for detail in details), result.stderr
    assert contents(folder) == before
    return result.stderr


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder of a test."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def state(project: Path) -> Tensors:
    return load_checkpoint(project / EXAMPLE).state


# --- what is no checkpoint ------------------------------------------------------------------------


def png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0\0"))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize("verb", [["convert"], ["inspect", "alphas"]], ids=" ".join)
@pytest.mark.parametrize(
    ("data", "shown"),
    [(b"", "0 bytes"), (b"epoch 1 loss 0.5\n" * 9, "b'epoch"), (png(), "PNG"), (b"PK", "2 bytes")],
    ids=["empty", "text", "picture", "two bytes"],
)
def test_files_of_another_kind(verb: list[str], data: bytes, shown: str, folder: Path) -> None:
    Path("res20_4bit.pth.tar").write_bytes(data)
    error = refused(folder, *verb, "res20_4bit.pth.tar")
    assert shown in error
    assert "where: res20_4bit.pth.tar" in error


@pytest.mark.parametrize("verb", [["convert"], ["inspect", "alphas"]], ids=" ".join)
@pytest.mark.parametrize("name", ["missing.pth.tar", "folder/missing.pth.tar", "x" * 300])
def test_files_that_are_not_there(verb: list[str], name: str, folder: Path) -> None:
    assert f"where: {name}" in refused(folder, *verb, name)


def test_a_folder_is_no_checkpoint(folder: Path) -> None:
    Path("res20_4bit").mkdir()
    for arguments in (["res20_4bit"], ["."], ["res20_4bit", "-o", "out", "--force"]):
        assert "The checkpoint is not a file." in refused(folder, "convert", *arguments)
    assert "The directory is not an export." in refused(folder, "inspect", "alphas", "res20_4bit")


def test_a_checkpoint_that_cannot_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("m_4bit.pth.tar").write_bytes(b"anything")

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    result = run("convert", "m_4bit.pth.tar")
    assert result.exit_code == 2
    assert "Permission denied" in result.stderr
    assert list(folder.iterdir()) == [folder / "m_4bit.pth.tar"]


@pytest.mark.parametrize("legacy", [False, True])
def test_truncated_published_checkpoints(legacy: bool, folder: Path, reference: Path) -> None:
    whole = Path("res20_3bit.pth.tar")
    shutil.copy(reference / PUBLISHED / "res20_3bit" / "model_best.pth.tar", whole)
    if not legacy:
        torch.save({"state_dict": load_checkpoint(whole).state}, whole)
    data = whole.read_bytes()
    for length in (3, 1000, len(data) // 3, len(data) - 1):
        whole.write_bytes(data[:length])
        refused(folder, "convert", whole)
        refused(folder, "inspect", "alphas", whole)


def test_terminal_codes_in_names_are_shown_not_sent(folder: Path, state: Tensors) -> None:
    torch.save({**state, "fc\x1b[31m\nweight": torch.zeros(2)}, "m_4bit.pth.tar")
    assert r"fc\x1b[31m\nweight" in refused(
        folder, "convert", "m_4bit.pth.tar", "--family", "apot-v1"
    )


# --- networks that do not fit ---------------------------------------------------------------------


def changed(key: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], None]:
    def apply(state: Tensors) -> None:
        state[key] = change(state[key].clone())

    return apply


def removed(*suffixes: str) -> Callable[[Tensors], None]:
    def apply(state: Tensors) -> None:
        for key in [key for key in state if key.endswith(suffixes)]:
            del state[key]

    return apply


def added(key: str, value: float = 0.0) -> Callable[[Tensors], None]:
    def apply(state: Tensors) -> None:
        state[key] = torch.tensor(value)

    return apply


def first_becomes(key: str, value: float) -> Callable[[Tensors], None]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[0] = value
        return tensor

    return changed(key, change)


NOT_FITTING: dict[str, tuple[Callable[[Tensors], None], str]] = {
    "unknown key": (added("layer2.0.extra"), "layer2.0.extra"),
    "key of another network": (added("features.0.weight"), "features.0.weight"),
    "missing weight": (removed(WEIGHT), WEIGHT),
    "missing weight alpha": (removed(WEIGHT_ALPHA), "layer2.0.conv1.weight_quant.wgt_alpha"),
    "missing activation alpha": (removed(INPUT_ALPHA), INPUT_ALPHA),
    "no activation alphas": (removed("act_alpha"), "layer1.0.conv1.act_alpha"),
    "missing batch-norm": (removed(MEAN), MEAN),
    "missing first layer": (removed("layer3.0.bn2.bias"), "layer3.0.bn2.bias"),
    "missing last layer": (removed("fc.weight", "fc.bias"), "known architecture"),
    "thresholds of an unknown family": (removed("wgt_alpha"), "known family"),
    "threshold twice": (added("layer2.0.conv1.weight_alpha", 1.0), WEIGHT_ALPHA),
    "other shape": (changed(WEIGHT, lambda t: t[:3]), WEIGHT),
    "one element": (changed(WEIGHT, lambda t: t[:1, :1, :1, :1]), WEIGHT),
    "scalar": (changed(WEIGHT, lambda t: t.mean()), WEIGHT),
    "empty": (changed(WEIGHT, lambda t: t[:0]), WEIGHT),
    "empty first layer": (changed("conv1.weight", lambda t: t[:0]), "conv1.weight"),
    "vector as first layer": (changed("conv1.weight", lambda t: t.view(-1)), "known architecture"),
    "vector as alpha": (changed(WEIGHT_ALPHA, lambda t: t.repeat(2)), "layer2.0.conv1"),
    "empty alpha": (changed(WEIGHT_ALPHA, lambda t: t.repeat(0)), WEIGHT_ALPHA),
    "vector as activation alpha": (changed(INPUT_ALPHA, lambda t: t.repeat(2)), INPUT_ALPHA),
    "integers": (changed(WEIGHT, torch.Tensor.long), "torch.int64"),
    "integer alpha": (changed(WEIGHT_ALPHA, torch.Tensor.long), "torch.int64"),
    "integer variance": (changed(VARIANCE, torch.Tensor.long), "torch.int64"),
    "weight alpha 0": (changed(WEIGHT_ALPHA, torch.zeros_like), WEIGHT_ALPHA),
    "activation alpha 0": (changed(INPUT_ALPHA, torch.zeros_like), INPUT_ALPHA),
    "activation alpha negative": (changed(INPUT_ALPHA, torch.neg), INPUT_ALPHA),
    "constant weights": (changed(WEIGHT, torch.ones_like), WEIGHT),
    "first layer 0": (changed("conv1.weight", torch.zeros_like), "conv1.weight"),
    "last layer 0": (changed("fc.weight", torch.zeros_like), "fc.weight"),
    "variance negative": (changed(VARIANCE, torch.neg), VARIANCE),
    **{
        f"{value} in {key}": (first_becomes(key, value), key)
        for value in (math.nan, math.inf, -math.inf)
        for key in (
            *(WEIGHT, WEIGHT_ALPHA, INPUT_ALPHA, MEAN, VARIANCE, "layer2.0.bn1.weight"),
            *("conv1.weight", "bn1.weight", "bn1.bias", "fc.weight", "fc.bias"),
        )
    },
}
UNREADABLE_ALPHAS = [
    *("missing activation alpha", "no activation alphas", "thresholds of an unknown family"),
    *("threshold twice", "vector as alpha", "empty alpha", "vector as activation alpha"),
    *("integer alpha", f"nan in {WEIGHT_ALPHA}", f"inf in {WEIGHT_ALPHA}", f"nan in {INPUT_ALPHA}"),
]
"""Which of these `inspect alphas` cannot show either."""


@pytest.mark.parametrize("name", NOT_FITTING)
def test_networks_that_cannot_be_converted(name: str, state: Tensors, folder: Path) -> None:
    change, shown = NOT_FITTING[name]
    other = dict(state)
    change(other)
    torch.save({"state_dict": other}, NAME)
    assert shown in refused(folder, "convert", NAME, "-o", "new/folders/export")
    if name in UNREADABLE_ALPHAS:
        assert "layer" in refused(folder, "inspect", "alphas", NAME)
    else:
        result = run("inspect", "alphas", NAME, "--json")
        assert result.exit_code in {0, 2}
        assert "itself failed" not in result.stderr


def test_a_negative_variance_says_what_to_do(folder: Path, state: Tensors) -> None:
    variance = state["layer1.0.bn2.running_var"].clone()
    variance[0] = -1
    torch.save({"state_dict": {**state, "layer1.0.bn2.running_var": variance}}, NAME)
    error = refused(folder, "convert", NAME, "--trust-options")
    assert "where: layer1.0.bn2.running_var\n" in error
    assert "to do: " in error


def test_that_no_layer_is_quantized_is_said(state: Tensors, folder: Path) -> None:
    torch.save({"state_dict": state}, folder / NAME)
    result = run("convert", NAME, "--bits", 4, "--layer-bits", "*=32", "--family", "APOT-V1")
    assert "no layer is quantized (as given)" in result.output
    assert "undecided" not in result.output
    assert "weight bits" not in result.output


def test_a_broken_published_checkpoint(folder: Path, reference: Path) -> None:
    path = reference / PUBLISHED / "res20_3bit" / "model_best.pth.tar"
    state = load_checkpoint(path).state
    state["layer3.2.conv2.act_alpha"] = torch.tensor(math.nan)
    torch.save({"state_dict": state}, "res20_3bit.pth.tar", _use_new_zipfile_serialization=False)
    for verb in (["convert"], ["inspect", "alphas"]):
        error = refused(folder, *verb, "res20_3bit.pth.tar")
        assert "where: layer3.2.conv2.act_alpha" in error
        assert "1 NaN or infinite of 1" in error


# --- contradictions -------------------------------------------------------------------------------


CONTRADICTIONS = {
    "two widths": ("res8_2bit_4bit.pth.tar", [], "2 bit, 4 bit"),
    "two widths in the folder": ("res8_2bit_4bit/model_best.pth.tar", [], "2 bit, 4 bit"),
    "a width that is not offered": ("res8_7bit.pth.tar", [], "7 bits from the file name"),
    **{
        f"--bits {bits}": (NAME, ["--bits", str(bits)], f"{bits} bits from --bits")
        for bits in (32, 1, 7, 0, -3, 10**30)
    },
    "--method": (NAME, ["--method", "log"], "apot, pot, uniform"),
    "--method nothing": (NAME, ["--method", ""], "apot, pot, uniform"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_contradictions(name: str, state: Tensors, folder: Path) -> None:
    path, options, shown = CONTRADICTIONS[name]
    Path(path).parent.mkdir(exist_ok=True)
    torch.save({"state_dict": state}, path)
    assert shown in refused(folder, "convert", path, "-o", "export", *options)
    if "--bits" in options:
        assert shown in refused(folder, "inspect", "alphas", path, *options)


def test_a_quantized_name_of_a_full_precision_network(state: Tensors, folder: Path) -> None:
    plain = {key: value for key, value in state.items() if "alpha" not in key}
    torch.save({"state_dict": plain}, NAME)
    error = refused(folder, "convert", NAME)
    assert "The file name says 4 bits" in error
    assert "no clipping thresholds" in error
    assert "4 bits from --bits" in refused(folder, "convert", NAME, "--bits", 4)


def test_a_published_checkpoint_called_full_precision(folder: Path, reference: Path) -> None:
    path = reference / PUBLISHED / "res20_3bit" / "model_best.pth.tar"
    assert "32 bits from --bits" in refused(folder, "convert", path, "--bits", 32)


# --- verification that cannot run -----------------------------------------------------------------


@pytest.fixture
def export(folder: Path, exported: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an export in the current folder, its checkpoint beside it."""
    monkeypatch.delenv("APOT_EXPORT_DATA", raising=False)
    shutil.copytree(exported, folder, dirs_exist_ok=True)
    return folder / EXPORT


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["verify", "--limit", "0"], "--limit"),
        (["verify", "--limit", "-1"], "--limit"),
        (["verify", "--limit", "many"], "--limit"),
        (["verify", "--batch-size", "0"], "--batch-size"),
        (["verify", "--device", "nonsense"], "device"),
        (["verify", "one", "two"], "two"),
        (["verify", "nowhere"], "no such export"),
        (["verify", "x" * 300], "no such export"),
        (["verify", NAME], "an export is a folder"),
        (["verify", "--dataset", "svhn"], "cifar10, cifar100, mnist, imagenet, digits"),
        (["verify", "--dataset", "mnist"], "does not fit the network"),
        (["verify", "--dataset", "cifar10"], "does not fit the network"),
        (["verify", "--dataset", "imagenet"], "does not fit the network"),
        (["verify", "--dataset", "digits", "--data", "."], "leave out --data"),
        (["convert"], "checkpoint"),
        (["convert", NAME, "--bits", "four"], "--bits"),
        (["convert", NAME, "--nonsense"], "--nonsense"),
        (["inspect", "betas"], "betas"),
        (["inspect", "alphas", "nowhere.safetensors"], "nowhere.safetensors"),
        (["inspect", "alphas", "res8_4bit/model.onnx"], "is the ONNX model of an export"),
        (["convert", "res8_4bit/model.onnx"], "convert its directory"),
        (["inspect", "identify", "res8_4bit/model.apot.safetensors"], "the packed file of an"),
        (["convert", "res8_4bit/model.apot.safetensors"], "inspect bits DIRECTORY"),
        (["inspect", "bits", "nowhere"], "check the path"),
        (["convert", NAME, "-o", "e", "--layer-bits", "*2=9"], "--layer-bits 'layer1.0.conv2=N'"),
        (["verify", "--images", "res8_4bit/manifest.json"], "something else, or arrays of objects"),
        (["nonsense"], "nonsense"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
@pytest.mark.usefixtures("export")
def test_usage_and_settings_that_cannot_run(arguments: list[str], shown: str, folder: Path) -> None:
    before = contents(folder)
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    error = re.sub(r"\x1b\[[\d;]*m", "", result.stderr)  # typer colours where CI variables are set
    assert shown.lower() in error.lower()
    assert len(re.findall(r"^Error:|─ Error ─", error, re.MULTILINE)) == 1
    assert "Traceback" not in error
    assert "itself failed" not in error
    assert contents(folder) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(export: Path, folder: Path) -> None:
    assert "CUDA was asked for" in refused(folder, "verify", export, "--device", "cuda")


def test_images_that_are_not_there(export: Path, folder: Path, reference: Path) -> None:
    source = reference / PUBLISHED / "res20_2bit" / "model_best.pth.tar"
    assert run("convert", source, "-o", "cifar").exit_code == 0
    for options in ([], ["--data", "nowhere"], ["--data", export], ["--dataset", "cifar10"]):
        error = refused(folder, "verify", "cifar", *options)
        assert "The CIFAR-10 images were not found." in error
        assert "--data FOLDER" in error
    assert "does not fit" in refused(folder, "verify", "cifar", "--dataset", "digits")
