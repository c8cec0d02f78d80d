"""Files that a command writes beside what it prints: pages, tables."""

from __future__ import annotations

import os
from pathlib import Path

from apot_export.errors import ExportError


def require_writable(path: Path | None, option: str = "--html") -> None:
    """Raise `ExportError` unless a file can be written to a path, or none is wanted."""
    if path is None:
        return
    folder = path.absolute().parent
    is_other = path.exists() and not path.is_file()  # a folder, or a device
    if is_other or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ExportError(
            "The file cannot be written there.",
            where=str(path),
            expected="a file in a folder that exists and can be written",
            fix=f"name another with {option}",
        )


def write_text(path: Path, text: str) -> None:
    """Write a file in one step."""
    from apot_export.artifacts.atomic import replacing

    with replacing(path) as new:
        new.write_text(text, encoding="utf-8")
