"""The original that an export's manifest records: file, choices, digest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from apot_export.errors import ExportError, ModelError
from apot_export.original.choices import Choices
from apot_export.original.custom import ModelSpec, input_shape_of
from apot_export.original.files import require_recorded_digest
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
    digest = original.checkpoint.sha256 if original.checkpoint else None
    require_recorded_digest(digest, manifest, source, fix=fix)
