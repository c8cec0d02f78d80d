"""Writing a tuned export: whole, with a manifest that says what was measured, or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from apot_export.artifacts.directory import ONNX_MODEL, require_free, write_export
from apot_export.errors import ExportError
from apot_export.tuning._result import TuningResult

_DIGITS = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Export:
    """An export as it was when tuning began."""

    directory: Path
    manifest: Mapping[str, Any]
    files: Mapping[str, bytes]
    """Content by name, in the manifest's order."""


def require_writable(export: Export, output: Path | None, *, force: bool) -> None:
    """Raise `ExportError` where nothing can be written, before minutes are spent on it.

    Args:
        export: The export.
        output: Another directory; None for its own.
        force: Whether an earlier export in `output` may be replaced.
    """
    folder = _folder(export, output)
    require_free(folder, force=force or output is None)
    parent = next(parent for parent in folder.absolute().parents if parent.is_dir())
    if not os.access(parent, os.W_OK):
        raise ExportError(
            "The export cannot be written: it is made beside the old one, then put in its place.",
            where=str(parent),
            expected="a folder that can be written",
            fix="choose another place with -o",
        )


def write_tuned(
    export: Export, output: Path | None, model: bytes | None, result: TuningResult, *, force: bool
) -> None:
    """Write an export with a tuned model; without one, a copy if it goes elsewhere.

    Raises:
        ExportError: It cannot be written; nothing has changed.
    """
    if model is None and output is None:
        return
    folder = _folder(export, output)
    manifest = _moved(export, folder) if output is not None else dict(export.manifest)
    files = dict(export.files)
    if model is not None:
        files[ONNX_MODEL] = model
        manifest.pop("verification", None)  # a verdict on the old model
        manifest["target"] = "tuned"
        manifest["tuning"] = _record(result)
    write_export(folder, files, manifest, force=force or output is None)


def _folder(export: Export, output: Path | None) -> Path:
    return Path(os.path.realpath(export.directory)) if output is None else output


def _moved(export: Export, folder: Path) -> dict[str, Any]:
    """Return a manifest that finds the checkpoint from another folder."""
    source = dict(export.manifest["checkpoint"])
    if source["path"] is not None:
        path = os.path.normpath(export.directory.absolute() / source["path"])
        source["path"] = os.path.relpath(path, folder.absolute())
    return {**export.manifest, "checkpoint": source}


def _record(result: TuningResult) -> dict[str, Any]:
    """Return what the manifest says of how a model was tuned."""
    place = result.place
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "runtime": place.runtime,
        "runtime_version": result.version,
        "device": place.device,
        "cpu": result.cpu,
        "gpu": result.gpu,
        "threads": place.threads,
        "batch": place.batch,
        "ratio": round(result.ratio, _DIGITS),
        "noise": round(result.noise, _DIGITS),
        "complete": result.complete,
        "lowerings": result.lowerings,
    }
