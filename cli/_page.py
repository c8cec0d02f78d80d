"""Writing the report's page: whole, or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from apot_export.errors import ExportError

if TYPE_CHECKING:
    from apot_export.verification import Report


def require_writable(path: Path) -> None:
    """Raise `ExportError` where no page can be written, before hours are spent on it."""
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ExportError(
            "The page cannot be written there.",
            where=str(path),
            expected="a file in a folder that exists and can be written",
            fix="name another with --html",
        )


def write_page(path: Path, report: Report) -> None:
    """Write a report's page in one step."""
    from apot_export.verification.page import render_page

    handle, staged = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.absolute().parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(render_page(report))
        umask = os.umask(0)
        os.umask(umask)
        Path(staged).chmod(0o666 & ~umask)
        Path(staged).replace(path)
    except BaseException:
        Path(staged).unlink(missing_ok=True)
        raise
