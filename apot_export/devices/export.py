"""An export as devices need it: its coded network and the integer network of it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from apot_export.artifacts.directory import PACKED_MODEL, check_files, read_manifest
from apot_export.artifacts.packed import load_packed
from apot_export.artifacts.recorded import integer_of_manifest
from apot_export.conversion.integer_choices import IntegerChoices
from apot_export.integer import IntegerNetwork
from apot_export.network import CodedNetwork


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenExport:
    """An export that was read, with its integer network."""

    path: Path
    name: str
    manifest: Mapping[str, Any]
    """As if the export had been converted with its integer network."""
    coded: CodedNetwork
    network: IntegerNetwork


def open_export(export: str | PathLike[str]) -> OpenExport:
    """Read an export; where it has no integer network, make one as `convert --integer` does.

    Raises:
        ApotExportError: With what is wrong with the export, or why it has no integer form.
    """
    path = Path(export)
    manifest = read_manifest(path)
    if manifest.get("integer") is None:
        # It imports PyTorch and ONNX, which exports with an integer network do without.
        from apot_export.conversion.convert_export import convert_export

        with tempfile.TemporaryDirectory() as folder:
            choices = IntegerChoices()
            made = convert_export(path, Path(folder) / "integer", integer=choices)
            return _read(path, read_manifest(made.path))
    check_files(path, manifest)
    return _read(path, manifest)


def _read(path: Path, manifest: Mapping[str, Any]) -> OpenExport:
    coded = load_packed(path / PACKED_MODEL).network
    return OpenExport(
        path=path,
        name=str(manifest.get("name", path.absolute().name)),
        manifest=manifest,
        coded=coded,
        network=integer_of_manifest(manifest, coded),
    )
