"""The file of a verification report's page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from apot_export.errors import ExportError

if TYPE_CHECKING:
    from apot_export.verification import Report


def require_writable(path: Path | None) -> None:
    """Raise `ExportError` unless a page can be written to a path, or none is wanted."""
    if path is None:
        return
    folder = path.absolute().parent
    is_other = path.exists() and not path.is_file()  # a folder, or a device
    if is_other or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ExportError(
            "The page cannot be written there.",
            where=str(path),
            expected="a file in a folder that exists and can be written",
            fix="name another with --html",
        )


def write_page(path: Path, report: Report) -> None:
    """Write a report's page in one step."""
    from apot_export.artifacts.atomic import replacing
    from apot_export.verification.page import render_page

    with replacing(path) as new:
        new.write_text(render_page(report), encoding="utf-8")
