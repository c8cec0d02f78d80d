"""The original that an export's manifest records: file, choices, digest."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from apot_export.errors import ExportError, ModelError
from apot_export.original.choices import Choices
from apot_export.original.custom import ModelSpec, input_shape_of
from apot_export.original.opening import Source
from apot_export.original.original import Original


def recorded_choices(
    directory: Path, manifest: Mapping[str, Any]
) -> tuple[Choices, ModelSpec | None, tuple[int, int, int]]:
    """Return the choices, the factory of a custom network, and the shape of an image.

    Raises:
        ExportError: The manifest is damaged.
    """
    try:
        # Older manifests record the family beside the choices alone.
        recorded = Choices.of_json({"family": manifest["family"], **manifest["choices"]})
        spec = ModelSpec.of_json(manifest["model"]) if "model" in manifest else None
        return recorded, spec, input_shape_of(manifest["input_shape"])
    except (KeyError, TypeError, ValueError, SyntaxError, ModelError) as error:
        raise ExportError(
            "The manifest is damaged.", where=str(directory), got=str(error), fix="convert again"
        ) from error


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


def require_recorded(
    original: Original, manifest: Mapping[str, Any], source: Source, *, fix: str
) -> None:
    """Raise `ExportError` unless an original has the digest that a manifest records."""
    if isinstance(source, nn.Module):
        if original.state_sha256 != manifest.get("state_sha256"):
            raise ExportError(
                "The network is not the one that the export was made from.",
                where=type(source).__name__,
                expected=f"a state dict of SHA-256 {manifest.get('state_sha256')}",
                got=f"SHA-256 {original.state_sha256}",
                fix="give the network with the tensors that were converted, convert this one "
                "again, or state how this one was trained: choices=Choices(...)",
            )
        return
    got = original.checkpoint.sha256 if original.checkpoint else None
    if got != manifest["checkpoint"]["sha256"]:
        raise ExportError(
            "The checkpoint is not the one that the export was made from.",
            where=str(source),
            expected=f"SHA-256 {manifest['checkpoint']['sha256']}",
            got=f"SHA-256 {got}",
            fix=fix,
        )
