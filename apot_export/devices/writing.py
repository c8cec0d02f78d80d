"""Folders that `apot-export emit` writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apot_export.artifacts.folder import OutputFolder

_SUMMARY = "emitted.json"
"""What was emitted: a folder that has it may be replaced."""
_BUILD = "build"
"""Folder of what a project's Makefile makes."""


def _own_files(directory: Path) -> set[Path]:
    """Return the files of an earlier project, and what was built of them."""
    try:
        listed = json.loads((directory / _SUMMARY).read_text(encoding="utf-8"))["files"]
        return {directory / name for name in (*listed, _SUMMARY, _BUILD)}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


_PROJECT = OutputFolder(name="an emitted project", own=_own_files)
require_free = _PROJECT.require_free


def write_project(
    directory: Path, files: Mapping[str, bytes], summary: Mapping[str, Any], *, force: bool
) -> dict[str, Any]:
    """Write a project's files and its summary into a directory that appears whole or not at all.

    Returns:
        The summary, with the path, and the bytes of every file by name.

    Raises:
        ExportError: The directory exists (and `force` is off), or the files cannot be written.
    """
    sizes = {name: len(content) for name, content in files.items()}
    text = json.dumps({**summary, "files": sizes}, indent=2) + "\n"
    written = _PROJECT.write(directory, {**files, _SUMMARY: text.encode()}, force=force)
    return {"path": str(directory), **summary, "files": written}
