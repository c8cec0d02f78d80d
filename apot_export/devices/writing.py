"""Folders that `apot-export emit` writes: complete or not at all, replaced on request alone."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apot_export.artifacts.atomic import TEMPORARY, staged
from apot_export.errors import ExportError

SUMMARY = "emitted.json"
"""What was emitted: a folder that has it may be replaced."""
BUILD = "build"
"""Folder of what a project's Makefile makes."""


def require_free(directory: Path, *, force: bool) -> None:
    """Raise `ExportError` unless a project may be written to a directory.

    With `force` an earlier project, its `build` included, may be replaced; anything else may not.
    """
    if not os.path.lexists(directory):
        return
    if directory.is_symlink() or not directory.is_dir():
        raise ExportError(
            "The output exists already and is not a directory.",
            where=str(directory),
            fix="choose another with -o",
        )
    found = {entry.name for entry in directory.iterdir() if not entry.name.startswith(TEMPORARY)}
    own = {SUMMARY, BUILD, *_listed(directory / SUMMARY)} if SUMMARY in found else set()
    if foreign := sorted(found - own):
        raise ExportError(
            "The output directory exists already and holds files that were not emitted.",
            where=str(directory),
            got=", ".join(foreign[:5]),
            fix="choose another with -o",
        )
    if found and not force:
        raise ExportError(
            "The output directory exists already.",
            where=str(directory),
            expected="a directory that does not exist yet",
            fix="choose another with -o, or replace this one with --force",
        )


def _listed(summary: Path) -> set[str]:
    try:
        return set(json.loads(summary.read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def write_project(
    directory: Path, files: Mapping[str, bytes], summary: Mapping[str, Any], *, force: bool
) -> dict[str, int]:
    """Write a project's files and its summary into a directory that appears whole or not at all.

    Returns:
        Bytes of every file by name.

    Raises:
        ExportError: The directory exists (and `force` is off), or the files cannot be written.
    """
    sizes = {name: len(content) for name, content in files.items()}
    text = json.dumps({**summary, "files": sizes}, indent=2) + "\n"
    try:
        require_free(directory, force=force)
        with staged(directory, replace=force) as stage:
            for name, content in {**files, SUMMARY: text.encode()}.items():
                (stage / name).write_bytes(content)
    except OSError as error:
        raise ExportError(
            "The project cannot be written; nothing of it was left behind.",
            where=str(directory),
            got=error.strerror or str(error),
            fix="free space or choose another place with -o",
        ) from error
    return {**sizes, SUMMARY: len(text)}
