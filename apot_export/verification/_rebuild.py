"""The original that an export was made from, built again and held to the manifest's digests."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from apot_export.errors import ExportError, ModelError
from apot_export.original.choices import Choices
from apot_export.original.custom import ModelSpec, input_shape_of, load_custom, original_of_module
from apot_export.original.original import Original
from apot_export.original.published import load_original


def rebuild_original(
    directory: Path,
    manifest: Mapping[str, Any],
    checkpoint: str | PathLike[str] | None,
    model: str | None,
    module: nn.Module | None,
) -> Original:
    """Build the original of an export again.

    Args:
        directory: The export.
        manifest: Its manifest.
        checkpoint: The checkpoint; None for where the manifest says it was.
        model: Factory of a network of the user's own, whose code this runs; None for none.
        module: The network itself; None to build it.

    Raises:
        ExportError: What is given is not what the export was made from.
    """
    try:
        choices = Choices.of_json(manifest["choices"])
        spec = ModelSpec.of_json(manifest["model"]) if "model" in manifest else None
        shape = input_shape_of(manifest["input_shape"])
    except (KeyError, TypeError, ValueError, SyntaxError, ModelError) as error:
        raise ExportError(
            "The manifest is damaged.", where=str(directory), got=str(error), fix="convert again"
        ) from error
    if module is not None:
        return _of_module(module, shape, choices, manifest)
    if manifest["checkpoint"]["path"] is None:
        raise ExportError(
            "The export was made from a network in memory, which no file holds.",
            where=str(directory),
            fix="verify it in Python: apot_export.verify(export, original=network)",
        )
    _require_model(model, spec, directory)
    path = _checkpoint(directory, manifest["checkpoint"]["path"], checkpoint)
    if spec is not None and model is not None:
        original = load_custom(path, choices, dataclasses.replace(spec, factory=model))
    else:
        original = load_original(path, choices)
    got = original.checkpoint.sha256 if original.checkpoint else None
    if got != manifest["checkpoint"]["sha256"]:
        raise ExportError(
            "The checkpoint is not the one that the export was made from.",
            where=str(path),
            expected=f"SHA-256 {manifest['checkpoint']['sha256']}",
            got=f"SHA-256 {got}",
            fix="name the right file with --checkpoint, or convert this one again",
        )
    return original


def _of_module(
    module: nn.Module,
    shape: tuple[int, int, int],
    choices: Choices,
    manifest: Mapping[str, Any],
) -> Original:
    original = original_of_module(module, shape, choices)
    if original.state_sha256 != manifest.get("state_sha256"):
        raise ExportError(
            "The network is not the one that the export was made from.",
            where=type(module).__name__,
            expected=f"a state dict of SHA-256 {manifest.get('state_sha256')}",
            got=f"SHA-256 {original.state_sha256}",
            fix="give the network with the tensors that were converted, or convert this one again",
        )
    return original


def _require_model(model: str | None, spec: ModelSpec | None, directory: Path) -> None:
    """Raise `ExportError` unless a factory is named where, and only where, there was one."""
    if spec is not None and model is None:
        raise ExportError(
            "The export is of a network of your own: verifying it means running its code.",
            where=str(directory),
            expected="the factory that it was converted with",
            fix=f"say that you want this: --model {spec.factory}",
        )
    if spec is None and model is not None:
        raise ExportError(
            "The export was not made with a network of your own.",
            where=str(directory),
            got=f"--model {model}",
            fix="leave out --model",
        )


def _checkpoint(directory: Path, recorded: str, given: str | PathLike[str] | None) -> Path:
    if given is not None:
        return Path(given)
    # A symbolic link on the way would make ".." mean another folder than when it was written.
    path = Path(*_normalised(Path(os.path.normpath(directory.absolute())), recorded))
    if not path.is_file():
        raise ExportError(
            "The checkpoint that the export was made from is no longer there.",
            where=str(path),
            got=f"nothing at {recorded}, seen from the export",
            fix="say where it is: --checkpoint FILE",
        )
    return path


def _normalised(base: Path, relative: str) -> Sequence[str]:
    parts = list(base.parts)
    for part in Path(relative).parts:
        if part == "..":
            # Above the root lies the root.
            del parts[max(1, len(parts) - 1) :]
        elif Path(part).is_absolute():
            parts = [part]
        else:
            parts.append(part)
    return parts
