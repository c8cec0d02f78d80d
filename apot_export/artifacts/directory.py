"""Export directories: written whole or not at all, found again, and described by a manifest."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apot_export import budgets
from apot_export.artifacts import strict_json
from apot_export.artifacts.atomic import replacing
from apot_export.artifacts.folder import OutputFolder
from apot_export.budgets import Budget
from apot_export.errors import ExportError, absence

MANIFEST = "manifest.json"
ONNX_MODEL = "model.onnx"
INTEGER_MODEL = "model.integer.onnx"
PACKED_MODEL = "model.apot.safetensors"
SAMPLE = "sample.npz"
PICTURE = "sample.png"
README = "README.md"
_FILES = (ONNX_MODEL, PACKED_MODEL, INTEGER_MODEL, SAMPLE, PICTURE, README)
"""Whatever an export may have beside its manifest; the first two it always has."""
UNFINISHED = "verification.unfinished."
"""How the names of an unfinished verification's files begin."""
_MANIFEST_VERSION = 1
_OF_ONE_MODEL = ("batch", "keep_functions", "dynamic_size", "opset", "tuning", "verification")
"""Members of a manifest, beside the target, that another ONNX model makes void."""
_GENERIC_NAMES = ("model_best", "checkpoint", "model", "best", "last", "pytorch_model")
_CHECKPOINT_SUFFIXES = (".tar", ".pth", ".pt", ".ckpt", ".safetensors", ".bin", ".pkl")
_SKIPPED_FOLDERS = ("node_modules", "site-packages", "__pycache__")


def export_name(checkpoint: Path) -> str:
    """Return the name of a checkpoint's export: its own, or its folder's where that is generic.

    >>> export_name(Path("res18_4bit.pth.tar")), export_name(Path("res20_3bit/model_best.pth.tar"))
    ('res18_4bit', 'res20_3bit')
    """
    name = checkpoint.name
    while Path(name).suffix.lower() in _CHECKPOINT_SUFFIXES:
        name = name[: -len(Path(name).suffix)]
    folder = checkpoint.absolute().parent.name
    if name.lower() in _GENERIC_NAMES and folder:
        return folder
    return name


def default_directory(checkpoint: Path) -> Path:
    """Return where a checkpoint's export is written by default: here, beside its own folder."""
    directory = Path(export_name(checkpoint))
    if directory.resolve() == checkpoint.resolve().parent:
        return Path(f"{directory}_export")
    return directory


def _own_files(directory: Path) -> set[Path]:
    """Return the files of an earlier export; none unless its two unmistakable ones are there."""
    own = {directory / name for name in (MANIFEST, *_FILES)}
    own |= set(directory.glob(f"{UNFINISHED}*.jsonl"))
    files = {path for path in own if path.is_file() and not path.is_symlink()}
    return files if {directory / MANIFEST, directory / PACKED_MODEL} <= files else set()


_EXPORT = OutputFolder(name="an export", own=_own_files)
require_free = _EXPORT.require_free


def write_export(
    directory: Path, files: Mapping[str, bytes], manifest: Mapping[str, Any], *, force: bool
) -> dict[str, int]:
    """Write files and their manifest into a new directory that appears complete or not at all.

    Returns:
        Bytes of every file by name.

    Raises:
        ExportError: The directory exists (and `force` is off), or the files cannot be written.
    """
    described = {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in files.items()
    }
    content = {"manifest_version": _MANIFEST_VERSION, **manifest, "files": described}
    text = json.dumps(content, indent=2) + "\n"
    return _EXPORT.write(directory, {**files, MANIFEST: text.encode()}, force=force)


def read_manifest(directory: Path) -> dict[str, Any]:
    """Read an export's manifest.

    Raises:
        ExportError: There is none, or it is damaged or of another version.
    """
    path = directory / MANIFEST
    try:
        budget = Budget(path.stat().st_size)
        budget.require(budgets.JSON_BYTES, budget.file_bytes, str(path), ExportError)
        data = path.read_bytes()
    except OSError as error:
        raise no_export(directory, MANIFEST) from error
    strict_json.require_modest(budget, data, str(path), ExportError)
    try:
        manifest = strict_json.mapping("manifest", strict_json.loads(data.decode()))
        version = strict_json.integer("manifest_version", manifest.get("manifest_version"))
        if version == _MANIFEST_VERSION:
            _check_manifest(manifest)
    except ValueError as error:
        raise ExportError(
            "The manifest is damaged.",
            where=str(path),
            expected=f"what apot-export convert wrote, version {_MANIFEST_VERSION}",
            got=str(error),
            fix="convert again",
        ) from error
    if version != _MANIFEST_VERSION:
        raise ExportError(
            "The manifest has a version that this program does not read.",
            where=str(path),
            expected=f"version {_MANIFEST_VERSION}",
            got=f"version {version}",
            fix="convert again",
        )
    return manifest


def no_export(path: Path, lacking: str) -> ExportError:
    """Return the error of a path at which no export is, as far as it lacks a file."""
    what, got = "The directory is not an export.", f"a folder without a readable {lacking}"
    fix = "name the folder of an export; apot-export convert CHECKPOINT writes one"
    if (missing := absence(path)) is not None:
        what, got = "There is no such export.", missing
    elif not path.is_dir():
        what, got = "An export is a folder.", "a file"
        if (path.parent / MANIFEST).is_file():
            fix = f"name the folder: {path.absolute().parent}"
    return ExportError(
        what,
        where=str(path),
        expected=f"a folder with {MANIFEST} and {PACKED_MODEL}, as apot-export convert writes it",
        got=got,
        fix=fix,
    )


def _check_manifest(manifest: Mapping[str, Any]) -> None:
    """Raise `ValueError` unless everything that is read later has its type."""
    strict_json.integer("bits", manifest.get("bits"))
    for name in ("method", "family", "architecture"):
        strict_json.text(name, manifest.get(name))
    choices = strict_json.mapping("choices", manifest.get("choices"))
    strict_json.integer("alpha_terms", choices.get("alpha_terms"))
    strict_json.boolean("unsigned_zeros", choices.get("unsigned_zeros"))
    if (record := manifest.get("record")) is not None:
        key, accuracy = strict_json.fields("record", record, "key", "value")
        strict_json.text("record key", key)
        strict_json.number("record value", accuracy)
    if (form := manifest.get("integer")) is not None:
        form = strict_json.mapping("integer", form)
        strict_json.integer("fraction_bits", form.get("fraction_bits"))
        strict_json.integer("input_bits", form.get("input_bits"))
        if (pixels := form.get("normalisation")) is not None:
            for numbers in strict_json.fields("normalisation", pixels, "mean", "std"):
                for number in strict_json.array("normalisation", numbers):
                    strict_json.number("normalisation", number)
    source, digest = strict_json.fields("checkpoint", manifest.get("checkpoint"), "path", "sha256")
    if source is None and digest is None:  # made from a network in memory
        strict_json.text("state_sha256", manifest.get("state_sha256"))
    else:
        strict_json.text("checkpoint path", source)
        strict_json.text("checkpoint sha256", digest)
    optional = dict.fromkeys(_FILES[2:])
    files = strict_json.members("files", manifest.get("files"), _FILES[:2], optional)
    for name, described in zip(_FILES, files, strict=True):
        if described is None:
            continue
        size, digest = strict_json.fields(name, described, "bytes", "sha256")
        strict_json.integer(f"{name} bytes", size)
        strict_json.text(f"{name} sha256", digest)


def check_files(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Compare an export's files with the digests of its manifest.

    Raises:
        ExportError: A file is missing or is not the one that was written.
    """
    for name, described in manifest["files"].items():
        path = directory / name
        if not path.is_file():
            raise ExportError(
                "A file of the export is missing.",
                where=str(path),
                fix="convert the checkpoint again",
            )
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != described["sha256"]:
            raise ExportError(
                "A file of the export is not the one that was written: truncated or changed.",
                where=str(path),
                expected=f"SHA-256 {described['sha256']}, {described['bytes']} bytes",
                got=f"SHA-256 {found}, {path.stat().st_size} bytes",
                fix="copy the export again, or convert the checkpoint again",
            )


def attach_to_manifest(directory: Path, verified: Mapping[str, Any], content: Any) -> None:
    """Put a verdict into an export's manifest, in one step; the export is no newer for it.

    Args:
        directory: The export.
        verified: The manifest of what was verified.
        content: The verdict.

    Raises:
        ExportError: The manifest cannot be read or written, or is another export's.
    """
    path, name = directory / MANIFEST, "verification"
    try:
        with replacing(path) as new:
            manifest = read_manifest(directory)
            if {**manifest, name: None} != {**verified, name: None}:
                raise ExportError(
                    "The export was replaced while it was verified.",
                    where=str(directory),
                    got="another manifest than the verified one",
                    fix="verify again",
                )
            text = json.dumps({**manifest, name: content}, indent=2) + "\n"
            new.write_text(text, encoding="utf-8")
            status = path.stat()
            os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
    except OSError as error:
        raise ExportError(
            "The manifest cannot be written.", where=str(path), got=error.strerror or str(error)
        ) from error


def found_from(folder: Path, directory: Path, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest's record of the checkpoint as it is found from another folder."""
    if checkpoint["path"] is None:
        return dict(checkpoint)
    path = os.path.normpath(directory.absolute() / checkpoint["path"])
    return {**checkpoint, "path": os.path.relpath(path, folder.absolute())}


def of_another_model(
    manifest: Mapping[str, Any],
    options: Mapping[str, Any],
    changed: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return a manifest without what it says of its ONNX model, and with a new one's options.

    Args:
        manifest: The manifest.
        options: Of the new model.
        changed: Other members that are new; None in place of one removes it.
    """
    kept: dict[str, Any] = {}
    for key, value in manifest.items():
        if key == "target":
            kept |= {option: chosen for option, chosen in options.items() if chosen}
        elif key not in _OF_ONE_MODEL:
            kept[key] = value
    files = kept.pop("files")  # the last member, where it was
    kept |= changed or {}
    return {**{key: value for key, value in kept.items() if value is not None}, "files": files}


def find_newest(below: Path) -> Path:
    """Return the newest export in a folder or anywhere below it.

    Raises:
        ExportError: There is none.
    """
    found: list[tuple[int, str]] = []
    for folder, subfolders, files in os.walk(below):
        subfolders[:] = sorted(
            name for name in subfolders if not name.startswith(".") and name not in _SKIPPED_FOLDERS
        )
        if MANIFEST in files and PACKED_MODEL in files:
            found.append(((Path(folder) / MANIFEST).stat().st_mtime_ns, folder))
    if not found:
        raise ExportError(
            "There is no export in the current folder or below it.",
            where=str(below),
            expected=f"a directory with {MANIFEST} and {PACKED_MODEL}",
            fix="run apot-export convert CHECKPOINT first, or name an export's directory",
        )
    return Path(max(found)[1])
