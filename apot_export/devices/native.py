"""Write the C library of an export's float network: sources, plan, samples and a Makefile."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from apot_export.artifacts.directory import PACKED_MODEL, SAMPLE, check_files, read_manifest
from apot_export.artifacts.packed import load_packed
from apot_export.artifacts.sample import read_sample
from apot_export.devices.writing import require_free, write_project
from apot_export.runtimes.native import SOURCES, plan_network


def emit_native(
    export: str | PathLike[str], directory: str | PathLike[str], *, force: bool = False
) -> dict[str, Any]:
    """Write libapot and the plan by which it runs an export's network, as `compile_network` does.

    Args:
        export: The export directory.
        directory: The directory to write.
        force: Replace an earlier project in the directory.

    Returns:
        The path, the bytes of every file and of a workspace, as JSON.

    Raises:
        ApotExportError: With what is wrong with the export, or which layer has no kernel; nothing
            is left half-written.
    """
    path, folder = Path(export), Path(directory)
    require_free(folder, force=force)
    check_files(path, read_manifest(path))
    plan = plan_network(load_packed(path / PACKED_MODEL).network)
    files = {file.name: file.read_bytes() for file in sorted(SOURCES.iterdir()) if file.is_file()}
    files["network.apot"] = plan.content
    if (path / SAMPLE).is_file():
        files |= _samples(path)
    report = {"workspace_bytes": plan.workspace_bytes}
    return write_project(folder, files, {"emitted": "native", **report}, force=force)


def _samples(export: Path) -> dict[str, bytes]:
    """Return the export's samples, and the classes that its logits name."""
    sample = read_sample(export / SAMPLE)
    found = {"samples.f32": sample.inputs.astype("<f4").tobytes()}
    if sample.logits is not None:
        classes = np.reshape(sample.logits, (len(sample), -1)).argmax(axis=1)
        found["classes.txt"] = "".join(f"{index}\n" for index in classes).encode()
    return found
