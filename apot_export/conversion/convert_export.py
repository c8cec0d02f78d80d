"""From an export directory to one with another ONNX model, without the checkpoint."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from apot_export._version import VERSION
from apot_export.artifacts.directory import (
    ONNX_MODEL,
    PACKED_MODEL,
    check_files,
    found_from,
    of_another_model,
    read_manifest,
    require_free,
    write_export,
)
from apot_export.artifacts.onnx_model import build_model, serialise
from apot_export.artifacts.onnx_model.lowering import PORTABLE, require_target
from apot_export.artifacts.packed import load_packed


@dataclass(frozen=True, kw_only=True)
class ExportConversion:
    """What was written, and from which export."""

    path: Path
    """The export directory."""
    source: Path
    """The export whose packed file it was made from."""
    target: str
    """Runtime that the ONNX model is lowered for."""
    files: dict[str, int]
    """Bytes of every file by name."""
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the stable JSON form."""
        return {**asdict(self), "path": str(self.path), "source": str(self.source)}


def convert_export(
    export: str | PathLike[str],
    directory: str | PathLike[str] | None = None,
    *,
    target: str = PORTABLE,
    batch: int = 0,
    keep_functions: bool = False,
    force: bool = False,
) -> ExportConversion:
    """Write an export with an ONNX model for another target, made from the packed file.

    All other files are copied. The model is the one that `convert` makes of the checkpoint.

    Args:
        export: The export directory.
        directory: The directory to write; None for one named after the export and the target, here.
        target: Runtime that the ONNX model is lowered for, as in `convert`.
        batch: Images in every batch of target "plain"; 0 for any number.
        keep_functions: Leave the `apot` functions of target "plain" in.
        force: Replace an earlier export in `directory`.

    Raises:
        ApotExportError: With what is wrong with the export; nothing is left half-written.
    """
    started = time.perf_counter()
    options: dict[str, Any] = {"target": target, "batch": batch, "keep_functions": keep_functions}
    require_target(**options)
    source = Path(export)
    manifest = read_manifest(source)
    name = str(manifest.get("name", source.absolute().name))
    folder = Path(f"{name}_{target}" if directory is None else directory)
    require_free(folder, force=force)
    check_files(source, manifest)
    files = {file: (source / file).read_bytes() for file in manifest["files"]}
    packed = load_packed(source / PACKED_MODEL)
    provenance = {"apot_export": json.dumps(packed.provenance, sort_keys=True)}
    model = build_model(
        packed.network, name=name, tool=f"apot-export {VERSION}", metadata=provenance, **options
    )
    files[ONNX_MODEL] = serialise(model)
    checkpoint = found_from(folder, source, manifest["checkpoint"])
    written = write_export(
        folder,
        files,
        of_another_model({**manifest, "checkpoint": checkpoint}, **options),
        force=force,
    )
    return ExportConversion(
        path=folder,
        source=source,
        target=target,
        files=written,
        seconds=time.perf_counter() - started,
    )
