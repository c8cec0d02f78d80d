"""Export directories: whole or not at all, never over foreign files, and checked when read."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from typer import Typer
from typer.testing import CliRunner, Result

from apot_export.artifacts.directory import (
    MANIFEST,
    ONNX_MODEL,
    PACKED_MODEL,
    PICTURE,
    README,
    SAMPLE,
    find_newest,
    read_manifest,
)
from apot_export.errors import ExportError

APP: Typer = import_module("apot_export_cli.app").app  # of the folder cli/
Stopped: Callable[[int], BaseException] = import_module("apot_export_cli._signals").Stopped
CHECKPOINT = "res8_4bit.pth.tar"
EXPORT = Path("res8_4bit")
FILES = {MANIFEST, ONNX_MODEL, PACKED_MODEL, SAMPLE, PICTURE, README}
pytestmark = pytest.mark.usefixtures("folder")

DETAIL = re.compile(r" +(where|expected|got|to do): \S")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(APP, [str(argument) for argument in arguments])


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def refused(*arguments: object, code: int = 2) -> str:
    """Run a command that must fail, and return the one error that it prints."""
    before = contents(Path.cwd())
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    what, *details = result.stderr.splitlines()
    assert what.startswith("Error: "), result.stderr
    assert "itself failed" not in what, result.stderr
    assert all(DETAIL.match(detail) for detail in details), result.stderr
    assert contents(Path.cwd()) == before
    return result.stderr


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, project: Path) -> Path:
    """Return a folder with a checkpoint and its export."""
    folder = tmp_path_factory.mktemp("original")
    source = project / "examples" / "digits" / "res8_4bit" / "model_best.pth.tar"
    shutil.copy(source, folder / CHECKPOINT)
    assert run("convert", folder / CHECKPOINT, "-o", folder / EXPORT).exit_code == 0
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the current folder, a copy of the original."""
    work = tmp_path / "work"
    shutil.copytree(original, work)
    monkeypatch.chdir(work)
    yield work
    assert list(tmp_path.iterdir()) == [work]  # nothing beside it either


# --- where an export may be written ---------------------------------------------------------------


def test_an_existing_export_is_kept_without_force() -> None:
    error = refused("convert", CHECKPOINT)
    assert "The output directory exists already." in error
    assert "--force" in error


def test_force_replaces_an_earlier_export(folder: Path) -> None:
    before = contents(folder)
    assert run("convert", CHECKPOINT, "--force").exit_code == 0
    assert contents(folder) == before
    (EXPORT / ONNX_MODEL).write_bytes(b"damaged")
    (EXPORT / MANIFEST).write_bytes(b"damaged")
    assert run("convert", CHECKPOINT, "--force").exit_code == 0
    assert contents(folder) == before


def test_force_fills_an_empty_folder() -> None:
    Path("empty").mkdir()
    assert run("convert", CHECKPOINT, "-o", "empty", "--force").exit_code == 0
    assert {path.name for path in Path("empty").iterdir()} == FILES


FOREIGN = {
    "a note": "echo mine > notes.txt",
    "a hidden file": "echo mine > .hidden",
    "a folder": "mkdir results",
    "a manifest of something else": f"rm {PACKED_MODEL}",
    "models of something else": f"rm {MANIFEST}",
    "a folder called like a model": f"rm {ONNX_MODEL}; mkdir {ONNX_MODEL}",
    "a link called like a model": f"mv {ONNX_MODEL} ..; ln -s ../{ONNX_MODEL} {ONNX_MODEL}",
}


@pytest.mark.parametrize("options", [[], ["--force"]])
@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_files_are_never_replaced(name: str, options: list[str]) -> None:
    subprocess.run(["/bin/sh", "-c", FOREIGN[name]], cwd=EXPORT, check=True)
    error = refused("convert", CHECKPOINT, *options)
    assert "holds files that are not of an export" in error
    assert "--force" not in error


@pytest.mark.parametrize("options", [[], ["--force"]])
@pytest.mark.parametrize(
    "output",
    [
        *(CHECKPOINT, f"{CHECKPOINT}/export", f"{CHECKPOINT}/new/export", "link", "dangling"),
        *(".", "..", "/", "", "/dev/null", "/dev/null/export", "/proc/export"),
        *("x" * 300, f"new/{'x' * 300}/export"),
    ],
)
def test_outputs_that_cannot_be(output: str, options: list[str]) -> None:
    Path("link").symlink_to(EXPORT)
    Path("dangling").symlink_to("nowhere")
    error = refused("convert", CHECKPOINT, "-o", output, *options)
    assert "-o" in error
    if output.startswith(f"{CHECKPOINT}/"):
        assert f"where: {Path(CHECKPOINT).absolute()}\n" in error


def test_the_current_folder_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXPORT)
    for verb in (["convert", f"../{CHECKPOINT}", "-o", ".", "--force"], ["tune", "."]):
        assert "cd .." in refused(*verb)


UNUSUAL = ["new\nline", "x" * 250, "*?[a]", " ", "-o"]


@pytest.mark.parametrize("name", UNUSUAL, ids=ascii)
def test_unusual_names(name: str) -> None:
    for options in ([], ["--force"]):
        result = run("convert", CHECKPOINT, "-o", f"./{name}", *options)
        assert result.exit_code == 0, result.output
        assert {path.name for path in Path(name).iterdir()} == FILES


def test_missing_parents_are_made() -> None:
    assert run("convert", CHECKPOINT, "-o", "new/folders/export").exit_code == 0
    assert {path.name for path in Path("new/folders/export").iterdir()} == FILES
    assert Path("new/folders/export").stat().st_mode == Path("new").stat().st_mode


# --- failures while writing -----------------------------------------------------------------------


def failing(call: Callable[..., Any], number: int, error: BaseException) -> Callable[..., Any]:
    """Return a function that fails the given time it is called."""
    calls = iter(range(1, 100))

    def replacement(*arguments: object) -> Any:
        if next(calls) == number:
            raise error
        return call(*arguments)

    return replacement


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize(
    "options", [["--force"], ["-o", "new/folders/export"]], ids=["replacing", "new"]
)
def test_a_full_disk_leaves_everything_as_it_was(
    number: int, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", failing(os.fsync, number, FULL))
    error = refused("convert", CHECKPOINT, *options)
    assert "No space left on device" in error
    assert "nothing of it was left behind" in error


@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_earlier_export_survives_a_failed_replacement(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: None)  # no exchange: it takes two steps
    monkeypatch.setattr(Path, "rename", failing(Path.rename, number, FULL))
    refused("convert", CHECKPOINT, "--force")


@pytest.mark.parametrize("number", [1, 2])
def test_folders_that_cannot_be_made(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    denied = PermissionError(errno.EACCES, "Permission denied")
    monkeypatch.setattr(os, "mkdir", failing(os.mkdir, number, denied))
    assert "Permission denied" in refused("convert", CHECKPOINT, "-o", "new/export")


def test_an_interrupt_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", failing(os.fsync, 2, Stopped(signal.SIGINT)))
    assert refused("convert", CHECKPOINT, "-o", "new/export", code=130) == "Error: Interrupted.\n"


def test_a_real_limit_on_file_sizes(folder: Path) -> None:
    script = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "from apot_export_cli.main import run\n"
        "run()"
    )
    before = contents(folder)
    command = [sys.executable, "-c", script, "convert", CHECKPOINT, "-o", "new/export"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stdout == ""
    assert "File too large" in result.stderr
    assert "Traceback" not in result.stderr
    assert contents(folder) == before


# --- damage to an export --------------------------------------------------------------------------


def replaced(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        *outer, last = key.split(" ")
        for name in outer:
            manifest = manifest[name]
        if value is None:
            del manifest[last]
        else:
            manifest[last] = value

    return change


DESCRIBED = ("bytes", "sha256")
KEYS = ["manifest_version", "bits", "method", "checkpoint", "checkpoint path", "checkpoint sha256"]
KEYS += ["files", *(f"files {name}" for name in (ONNX_MODEL, PACKED_MODEL))]
KEYS += [f"files {name} {key}" for name in (ONNX_MODEL, PACKED_MODEL) for key in DESCRIBED]
VALUES: list[object] = [None, 2.5, [], {}, True, ["4"]]


@pytest.mark.parametrize("value", VALUES, ids=repr)
@pytest.mark.parametrize("key", KEYS)
def test_manifests_with_wrong_or_missing_fields(key: str, value: object) -> None:
    path = EXPORT / MANIFEST
    manifest = json.loads(path.read_bytes())
    replaced(key, value)(manifest)
    path.write_text(json.dumps(manifest), encoding="utf-8")
    error = refused("verify", EXPORT)
    assert "The manifest is damaged." in error
    assert f"where: {path}" in error


@pytest.mark.parametrize(
    "text",
    [b"", b"no JSON", b"[]", b"1", b"null", b"\xff\xfe", b"[" * 100_000, b'{"manifest_version":1}'],
    ids=["empty", "text", "list", "number", "null", "binary", "deep", "fields missing"],
)
def test_manifests_that_are_none(text: bytes) -> None:
    (EXPORT / MANIFEST).write_bytes(text)
    assert "The manifest is damaged." in refused("verify", EXPORT)


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (replaced("manifest_version", 2), "version 2"),
        (replaced("choices bits", 99), "99 bits"),
        (replaced("choices method", "log"), "apot or pot or uniform"),
        (replaced("files /etc/passwd", {"bytes": 1, "sha256": "0"}), "damaged"),
        (replaced("files ../../secret", {"bytes": 1, "sha256": "0"}), "damaged"),
        (replaced("checkpoint path", ".."), "no longer there"),
        (replaced("checkpoint path", "a\0b"), "no longer there"),
        (replaced(f"files {ONNX_MODEL} sha256", "0" * 64), "truncated or changed"),
    ],
)
def test_manifests_that_say_something_else(
    change: Callable[[dict[str, Any]], None], shown: str
) -> None:
    manifest = read_manifest(EXPORT)
    change(manifest)
    (EXPORT / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    assert shown in refused("verify", EXPORT)


@pytest.mark.parametrize("name", [ONNX_MODEL, PACKED_MODEL])
def test_damaged_files_are_found_before_anything_is_read(name: str) -> None:
    path = EXPORT / name
    data = path.read_bytes()
    for length in (0, 7, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        assert f"where: {path}" in refused("verify", EXPORT)
    for position in range(0, len(data), len(data) // 12):
        flipped = bytes([data[position] ^ 1 << position % 8])
        path.write_bytes(data[:position] + flipped + data[position + 1 :])
        assert "truncated or changed" in refused("verify", EXPORT)
    path.unlink()
    assert "A file of the export is missing." in refused("verify", EXPORT)
    (EXPORT / MANIFEST).unlink()
    assert "The directory is not an export." in refused("verify", EXPORT)


def test_a_flipped_bit_in_any_packed_tensor_is_named() -> None:
    path = EXPORT / PACKED_MODEL
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    entries = json.loads(data[8 : 8 + length])
    del entries["__metadata__"]
    tensors = [name for name in entries if not name.startswith("_padding.")]
    assert len(tensors) == 1 + 10
    for name in tensors:
        begin, end = entries[name]["data_offsets"]
        place = 8 + length + (begin + end) // 2
        path.write_bytes(data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :])
        error = refused("inspect", "alphas", EXPORT)
        assert f"where: {path}: {name}\n" in error
        assert "CRC-32" in error


def test_a_truncated_packed_file_is_refused() -> None:
    path = EXPORT / PACKED_MODEL
    data = path.read_bytes()
    for length in [*range(0, 200, 11), *range(200, len(data), 1999), len(data) - 1]:
        path.write_bytes(data[:length])
        assert f"where: {path}" in refused("inspect", "alphas", path)


# --- the checkpoint of an export ------------------------------------------------------------------


def test_a_checkpoint_that_has_gone(folder: Path) -> None:
    Path(CHECKPOINT).unlink()
    error = refused("verify", EXPORT, "--bits", "4")
    assert f"where: {folder / CHECKPOINT}" in error
    assert "--checkpoint" in error
    assert "is not there" in refused("verify", EXPORT, "--checkpoint", "nowhere.pth.tar")
    assert "is not a file" in refused("verify", EXPORT, "--checkpoint", EXPORT)
    Path(CHECKPOINT).mkdir()
    refused("verify", EXPORT)


def test_a_checkpoint_that_has_changed() -> None:
    content = torch.load(CHECKPOINT, weights_only=True)
    content["epoch"] += 1
    torch.save(content, CHECKPOINT)
    error = refused("verify", EXPORT)
    assert "The checkpoint is not the one that the export was made from." in error
    assert error.count("SHA-256") == 2


# --- finding --------------------------------------------------------------------------------------


def test_the_newest_export_is_found(folder: Path) -> None:
    for name, age in (("a/old", 50), ("b/c/new", 10), (".hidden", 1), ("site-packages/x", 2)):
        shutil.copytree(EXPORT, name)
        seconds = 1_700_000_000 - age
        os.utime(Path(name, MANIFEST), (seconds, seconds))
    os.utime(EXPORT / MANIFEST, (1, 1))
    assert find_newest(Path()) == Path("b/c/new")
    assert find_newest(Path("a")) == Path("a/old")
    assert find_newest(Path("a/old")) == Path("a/old")
    Path("empty").mkdir()
    with pytest.raises(ExportError):
        find_newest(Path("empty"))
    os.chdir("empty")
    for verb in (["verify"], ["inspect", "alphas"]):
        assert "There is no export in the current folder or below it." in refused(*verb)
    os.chdir(folder)
