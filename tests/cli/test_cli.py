"""The command line as users and scripts rely on it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from apot_export._version import VERSION
from apot_export.artifacts.directory import MANIFEST, PACKED_MODEL, default_directory, export_name
from apot_export.artifacts.packed import load_packed
from apot_export.artifacts.packed.writing import packed_file_bytes
from apot_export.network import CodedLayer
from apot_export.network.bitpack import pack
from apot_export.network.layers import EncodedCodes
from tests.support.commands import (
    CHECKPOINT,
    COMMAND,
    EXPORT,
    FILES,
    document,
    here,
    installed,
    run,
    typed,
)

VERBS = [
    ["convert"],
    ["verify"],
    ["tune"],
    ["inspect"],
    ["inspect", "overview"],
    ["inspect", "cost"],
    ["inspect", "levels"],
    ["inspect", "weights"],
    ["inspect", "alphas"],
    ["inspect", "bits"],
    ["inspect", "integer"],
    ["inspect", "identify"],
]

TRUST = "--trust-options"
"""Convert at bits that the checkpoint was not trained with."""


# --- the lines that users type --------------------------------------------------------------------


def test_the_three_lines_as_users_type_them(folder: Path) -> None:
    expected = {name: (EXPORT / name).read_bytes() for name in FILES}
    shutil.rmtree(EXPORT)
    converted = installed("convert", CHECKPOINT, PYTHONHASHSEED="12345")
    assert (converted.returncode, converted.stderr) == (0, "")
    assert converted.stdout.startswith("Converted to res8_4bit/\n")
    # Another process, another hash seed, the same bytes.
    assert {path.name: path.read_bytes() for path in EXPORT.iterdir()} == expected
    verified = installed("verify", "--dataset", "digits")
    assert verified.returncode == 0
    assert verified.stderr.startswith("Verifying res8_4bit (the newest export here)\n")
    assert verified.stdout.startswith("res8_4bit: ResNet-8 (CIFAR), 359 images of digits")
    assert verified.stdout.endswith("\nPASS\n")
    inspected = installed("inspect", "alphas")
    assert inspected.returncode == 0
    assert inspected.stderr == "Inspecting res8_4bit (the newest export here)\n"
    assert "layer3.0.downsample.0" in inspected.stdout
    assert sorted(path.name for path in folder.iterdir()) == [EXPORT.name, CHECKPOINT]


def test_an_error_of_the_installed_command() -> None:
    result = installed("convert", "nowhere.pth.tar")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert "Traceback" not in result.stderr


@here
def test_debug_shows_where_an_error_came_from() -> None:
    result = run("convert", "nowhere.pth.tar", "--debug")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert "\nError: " in result.stderr


@here
def test_an_error_of_the_program_itself_is_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr("apot_export.inspection.thresholds.thresholds", broken)
    result = run("inspect", "alphas", EXPORT)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "apot-export itself failed" in result.stderr
    assert "KeyError: 'surprise'" in result.stderr
    assert "Traceback" not in result.stderr
    assert isinstance(run("inspect", "alphas", EXPORT, "--debug").exception, KeyError)


@pytest.mark.parametrize("verb", [[], *VERBS], ids=" ".join)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_of_every_verb(verb: list[str], option: str) -> None:
    result = run(*verb, option)
    assert (result.exit_code, result.stderr) == (0, "")
    text = re.sub(r"\x1b\[[\d;]*m", "", result.stdout)  # typer colours where CI variables are set
    assert f"Usage: {' '.join(['apot-export', *verb])} " in text
    assert ("--json" in text and "--debug" in text) == (verb not in ([], ["inspect"]))


def test_version() -> None:
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"apot-export {VERSION}\n")
    assert installed("--version").stdout == result.stdout


# --- what scripts rely on -------------------------------------------------------------------------


@here
def test_json_of_convert() -> None:
    content = document("convert", CHECKPOINT, "-o", "out")
    texts = dict.fromkeys(["path", "family", "architecture", "bits_from", "method"], str)
    numbers = dict.fromkeys(
        ["bits", "weights", "code_bits", "checkpoint_bytes", "float32_bytes"], int
    )
    typed(content, {**texts, **numbers, "seconds": float, "files": dict.fromkeys(FILES, int)})
    assert content["path"] == "out"
    assert content["family"] == "apot-v1"
    assert (content["bits"], content["bits_from"]) == (4, "file name")
    assert content["files"] == {path.name: path.stat().st_size for path in Path("out").iterdir()}
    assert content["float32_bytes"] == 4 * content["weights"]
    assert 4 * content["weights"] < content["code_bits"] < 5 * content["weights"]


@here
def test_compressed_exports_are_smaller_and_verify() -> None:
    plain = document("convert", CHECKPOINT, "-o", "plain", "--bits", 3, TRUST)
    small = document("convert", CHECKPOINT, "-o", "small", "--bits", 3, "--compress", TRUST)
    assert (plain["compressed"], small["compressed"]) == (False, True)
    assert small["files"][PACKED_MODEL] < plain["files"][PACKED_MODEL]
    assert small["code_bits"] < plain["code_bits"]
    assert json.loads(Path("small", MANIFEST).read_bytes())["compressed"] is True
    assert "compressed" not in json.loads(Path("plain", MANIFEST).read_bytes())
    for sides in ("ort", "packed"):
        assert document("verify", "small", "--limit", 20, "--sides", sides)["verdict"] == "PASS"
    shown = [run("inspect", "alphas", name).stdout for name in ("plain", "small")]
    assert shown[1] == shown[0].replace("plain", "small")
    stored = [sum(row["stored_bits"] for row in document("inspect", "bits", name)["layers"])
              for name in ("plain", "small")]  # fmt: skip
    assert stored[1] == small["code_bits"] < stored[0] == plain["code_bits"]
    for layer, found in load_packed("small").layers.items():
        assert found.weights().tobytes() == load_packed("plain").layers[layer].weights().tobytes()
    both = run("convert", CHECKPOINT, "-o", "both", "--compress", "--integer")
    assert (both.exit_code, Path("both").exists()) == (2, False)
    assert "leave out --compress or --integer" in both.stderr


@here
def test_ternary_weights_without_signs_of_zeros_take_1_6_bits() -> None:
    document("convert", CHECKPOINT, "-o", "signed", "--bits", 2, TRUST)
    options = ("--bits", 2, "--unsigned-zeros", TRUST)
    found = document("convert", CHECKPOINT, "-o", "ternary", *options)
    assert json.loads(Path("ternary", MANIFEST).read_bytes())["choices"]["unsigned_zeros"] is True
    for name, unsigned in (("signed", False), ("ternary", True)):
        report = document("verify", name, "--ignore-record", "--limit", 20, "--sides", "packed")
        assert report["verdict"] == "PASS"
        assert report["settings"]["unsigned_zeros"] is unsigned
        shown = " ".join(run("verify", name, "--ignore-record", "--limit", 20).stdout.split())
        assert ("equal bit for bit, zeros without signs (" in shown) is unsigned
        assert ("equal bit for bit (" in shown) is not unsigned
    signed, ternary = load_packed("signed").layers, load_packed("ternary").layers
    changed = 0
    for name, layer in ternary.items():
        before, after = signed[name].weights(), layer.weights()
        np.testing.assert_array_equal(before, after)
        assert isinstance(layer, CodedLayer)
        changed += int((np.signbit(before) != np.signbit(after)).sum())
        if layer.codebook.bits == 2:
            assert not (np.signbit(after) & (after == 0)).any()
        if layer.codebook.bits == 2 and layer.codes.size > 4000:
            assert isinstance(layer.stored, EncodedCodes)
            assert layer.stored.stored_bytes == -(-layer.codes.size // 5)
    assert changed
    bits = [layer["stored_bits"] for layer in document("inspect", "bits", "ternary")["layers"]]
    assert sum(bits) == found["code_bits"] < 2 * found["weights"]


@here
def test_json_of_verify() -> None:
    content = document("verify", EXPORT, "--limit", 20, "--device", "cpu")
    side = dict.fromkeys(["top1", "top5", "images_per_second"], float)
    typed(
        content,
        {
            **dict.fromkeys(["verdict", "dataset", "provider"], str),
            "images": int,
            "original": side,
            "export": side,
            **dict.fromkeys(["agreement", "self_agreement"], float),
            "weights": dict.fromkeys(["layers", "exact"], int),
            "levels": dict.fromkeys(["compared", "differing", "unexplained"], int),
            "settings": dict.fromkeys(["device", "torch", "onnxruntime"], str),
        },
    )
    assert (content["verdict"], content["dataset"], content["images"]) == ("PASS", "digits", 20)
    rates = [content[who][rate] for who in ("original", "export") for rate in ("top1", "top5")]
    assert all(0 <= rate <= 1 for rate in [*rates, content["agreement"], content["self_agreement"]])
    assert content["weights"]["exact"] == content["weights"]["layers"] == 10
    assert content["provider"] == "CPUExecutionProvider"


# --- exports --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("checkpoint", "name"),
    [
        ("res18_4bit.pth.tar", "res18_4bit"),
        ("runs/res18_4bit.PTH", "res18_4bit"),
        ("res20_3bit/model_best.pth.tar", "res20_3bit"),
        ("res20_3bit/checkpoint.pth.tar", "res20_3bit"),
        ("res20_3bit/Best.pt", "res20_3bit"),
        ("res20_3bit/last.ckpt", "res20_3bit"),
        ("v1.2/net.v3_4bit.pth", "net.v3_4bit"),
        ("best_4bit.pth", "best_4bit"),
        ("res20_3bit/model.safetensors", "res20_3bit"),
        ("res20_3bit/pytorch_model.bin", "res20_3bit"),
        ("no_suffix_4bit", "no_suffix_4bit"),
        ("/model.pth", "model"),
    ],
)
def test_names_of_exports(checkpoint: str, name: str) -> None:
    assert export_name(Path(checkpoint)) == name


def test_an_export_is_not_written_into_its_checkpoints_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "res20_4bit" / "model_best.pth.tar"
    checkpoint.parent.mkdir()
    monkeypatch.chdir(tmp_path)
    for path in (checkpoint, checkpoint.relative_to(tmp_path)):
        assert default_directory(path) == Path("res20_4bit_export")
    monkeypatch.chdir(checkpoint.parent)
    assert default_directory(Path(checkpoint.name)) == Path("res20_4bit")


@pytest.mark.parametrize(
    "verb", ["", "convert", "verify", "tune", "inspect", "inspect bits", "inspect identify"]
)
def test_help_is_whole_at_80_columns(verb: str) -> None:
    shown = run(*verb.split(), "--help", COLUMNS="80")
    assert shown.exit_code == 0
    assert "…" not in shown.stdout
    assert not re.search(r"^  \w+ .*\w\.\.\.$", shown.stdout, re.MULTILINE)  # a verb, cut
    assert max(map(len, shown.stdout.splitlines())) <= 80


@here
def test_an_export_is_named_after_the_checkpoint_and_lies_here(folder: Path) -> None:
    for name in ("runs/res8_4bit/model_best.pth.tar", "runs/small_4bit.pth.tar"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKPOINT, name)
    shutil.rmtree(EXPORT)
    assert document("convert", "runs/res8_4bit/model_best.pth.tar")["bits_from"] == "folder name"
    assert document("convert", folder / "runs" / "small_4bit.pth.tar")["path"] == "small_4bit"
    assert {path.name for path in folder.iterdir()} == {
        *("runs", "small_4bit", CHECKPOINT, EXPORT.name)
    }


@here
def test_the_same_input_gives_the_same_bytes_elsewhere() -> None:
    Path("elsewhere").mkdir()
    shutil.copy(CHECKPOINT, Path("elsewhere", CHECKPOINT))
    document("convert", f"elsewhere/{CHECKPOINT}", "-o", "elsewhere/res8_4bit")
    for name in FILES:
        assert (EXPORT / name).read_bytes() == Path("elsewhere", EXPORT, name).read_bytes()


@here
def test_a_folder_moves_as_one_and_a_checkpoint_alone_is_named() -> None:
    Path("moved").mkdir()
    for name in (CHECKPOINT, EXPORT):
        Path(name).rename(Path("moved", name))
    assert document("verify", "moved/res8_4bit", "--limit", 3)["verdict"] == "PASS"
    Path("moved", CHECKPOINT).rename("renamed")
    content = document("verify", "moved/res8_4bit", "--limit", 3, "--checkpoint", "renamed")
    assert content["verdict"] == "PASS"


@here
def test_a_file_name_of_any_bytes() -> None:
    name = os.fsdecode(b"res\xff8_4bit.pth.tar")
    try:
        shutil.copy(CHECKPOINT, name)
    except OSError:
        pytest.skip("this file system has Unicode names only")
    result = installed("convert", name)
    assert (result.returncode, result.stderr) == (0, "")
    assert r"Converted to res\udcff8_4bit/" in result.stdout
    assert document("verify", os.fsdecode(b"res\xff8_4bit"), "--limit", 2)["verdict"] == "PASS"


# --- FAIL -----------------------------------------------------------------------------------------


@here
def test_one_wrong_weight_fails_with_exit_code_1() -> None:
    packed = load_packed(EXPORT)
    layer = packed.layers["layer2.0.conv1"]
    assert isinstance(layer, CodedLayer)
    codes = layer.codes.copy()
    codes.flat[7] ^= 1
    wrong = dataclasses.replace(layer, stored=pack(codes, layer.codebook.bits))
    layers = {**packed.layers, wrong.name: wrong}
    data = packed_file_bytes(dataclasses.replace(packed.network, layers=layers), packed.provenance)
    (EXPORT / PACKED_MODEL).write_bytes(data)
    manifest = json.loads((EXPORT / MANIFEST).read_bytes())
    digest = hashlib.sha256(data).hexdigest()
    manifest["files"][PACKED_MODEL] = {"bytes": len(data), "sha256": digest}
    (EXPORT / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")

    result = run("verify", EXPORT, "--limit", 5)
    assert result.exit_code == 1
    assert result.stderr == ""
    assert "\nFAIL\n" in result.stdout
    assert "layer2.0.conv1: 1 of 1152 weights differ, first at [0, 0, 2, 1]" in result.stdout
    result = run("verify", EXPORT, "--limit", 5, "--json")
    assert result.exit_code == 1
    content = json.loads(result.stdout)
    assert content["verdict"] == "FAIL"
    assert (content["weights"]["exact"], content["weights"]["layers"]) == (9, 10)


# --- where the output goes ------------------------------------------------------------------------


@here
@pytest.mark.parametrize("arguments", [f"verify {EXPORT} --limit 2", "--help", "tune --help"])
def test_output_that_nobody_reads_is_no_verdict(arguments: str) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    command = [str(COMMAND), *arguments.split()]
    result = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE, check=False)
    os.close(writes)
    assert result.returncode == 2
    assert result.stderr == b""


@here
@pytest.mark.parametrize("target", ["/dev/full", "&-"])
@pytest.mark.parametrize("arguments", [f"inspect alphas {EXPORT}", "--help"])
def test_output_that_cannot_be_written(arguments: str, target: str) -> None:
    line = f"{COMMAND} {arguments} >{target}"
    result = subprocess.run(["/bin/bash", "-c", line], capture_output=True, text=True, check=False)
    assert "Traceback" not in result.stderr
    assert "itself failed" not in result.stderr
    if target == "/dev/full":
        assert result.returncode == 2
        assert "No space left on device" in result.stderr


@here
def test_a_terminal_without_unicode() -> None:
    result = installed("inspect", "alphas", str(EXPORT), PYTHONIOENCODING="ascii")
    assert (result.returncode, result.stderr) == (0, "")
    assert "####" in result.stdout
    assert result.stdout.isascii()
