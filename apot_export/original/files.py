"""Files of checkpoints: whether one is there, and where that of an export is. Without PyTorch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from apot_export.errors import CheckpointError, ExportError, absence

_EXPORTED = {".onnx": "the ONNX model", ".apot.safetensors": "the packed file"}


def require_checkpoint_file(path: Path) -> None:
    """Raise `CheckpointError` unless a path is that of a file."""
    if (missing := absence(path)) is not None:
        raise CheckpointError(
            "The checkpoint is not there.", where=str(path), got=missing, fix="check the path"
        )
    if not path.is_file():
        raise CheckpointError(
            "The checkpoint is not a file.",
            where=str(path),
            expected="a file, such as model_best.pth.tar",
            fix="name the checkpoint file; a folder that is an export does not hold it",
        )
    kind = next((kind for suffix, kind in _EXPORTED.items() if path.name.endswith(suffix)), None)
    if kind is not None:
        raise CheckpointError(
            f"The file is {kind} of an export, not a checkpoint.",
            where=str(path),
            expected="a file, such as model_best.pth.tar",
            fix="name the checkpoint; to make another export of this one, convert its directory; "
            "to look into it: apot-export inspect bits DIRECTORY",
        )


def recorded_path(directory: Path, manifest: Mapping[str, Any]) -> Path | None:
    """Return the checkpoint that a manifest records; None for a network that was in memory."""
    recorded = manifest["checkpoint"]["path"]
    # A symbolic link on the way would make ".." mean another folder than when it was written.
    return None if recorded is None else Path(os.path.normpath(directory.absolute() / recorded))


def recorded_file(
    directory: Path, manifest: Mapping[str, Any], *, if_in_memory: str, if_gone: str
) -> Path:
    """Return the checkpoint that a manifest records.

    Raises:
        ExportError: There never was one, or it is gone; with what to do in either case.
    """
    path = recorded_path(directory, manifest)
    if path is None:
        raise ExportError(
            "The export was made from a network in memory, which no file holds.",
            where=str(directory),
            fix=if_in_memory,
        )
    if not path.is_file():
        raise ExportError(
            "The checkpoint that the export was made from is no longer there.",
            where=str(path),
            got=f"nothing at {manifest['checkpoint']['path']}, seen from the export",
            fix=if_gone,
        )
    return path


def require_recorded_digest(
    digest: str | None, manifest: Mapping[str, Any], path: str | PathLike[str], *, fix: str
) -> None:
    """Raise `ExportError` unless a checkpoint has the SHA-256 that a manifest records."""
    expected = manifest["checkpoint"]["sha256"]
    if digest != expected:
        raise ExportError(
            "The checkpoint is not the one that the export was made from.",
            where=str(path),
            expected=f"SHA-256 {expected}",
            got=f"SHA-256 {digest}",
            fix=fix,
        )
