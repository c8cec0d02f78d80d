"""Folders that commands write: complete or not at all, replaced on request alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from apot_export.artifacts.atomic import TEMPORARY, staged
from apot_export.errors import ExportError


@dataclass(frozen=True, kw_only=True)
class OutputFolder:
    """A kind of folder that is written."""

    name: str
    """With its article."""
    own: Callable[[Path], set[Path]]
    """What of a folder may be replaced: all that an earlier one has; empty for any other folder."""

    def require_free(self, directory: Path, *, force: bool) -> None:
        """Raise `ExportError` unless a directory may be written.

        With `force`, an earlier one or an empty folder may be replaced; anything else may not.
        """
        for parent in directory.absolute().parents:
            if os.path.lexists(parent) and not parent.is_dir():
                raise _taken(
                    "The output directory cannot be made: a parent of it is not a directory.",
                    parent,
                )
        if not os.path.lexists(directory):
            return
        if directory.is_symlink() or not directory.is_dir():
            raise _taken("The output exists already and is not a directory.", directory)
        try:
            own = self.own(directory)
            foreign = sorted(
                entry.name
                for entry in directory.iterdir()
                if entry not in own and not entry.name.startswith(TEMPORARY)
            )
        except OSError as error:
            raise _taken(
                "The output directory exists already and cannot be read.", directory, error.strerror
            ) from error
        if foreign:
            raise _taken(
                f"The output directory exists already and holds files that are not of {self.name}.",
                directory,
                ", ".join(foreign[:5]),
            )
        if not force:
            raise ExportError(
                "The output directory exists already.",
                where=str(directory),
                expected="a directory that does not exist yet",
                fix="choose another with -o, or replace this one with --force",
            )
        if directory.samefile(Path()):
            raise ExportError(
                "The output directory is the current folder, which would be replaced by another.",
                where=str(directory.absolute()),
                fix="go to the folder above first: cd ..",
            )

    def write(self, directory: Path, files: Mapping[str, bytes], *, force: bool) -> dict[str, int]:
        """Write files into a directory that appears complete or not at all.

        Returns:
            Bytes of every file by name.

        Raises:
            ExportError: The directory exists (and `force` is off), or the files cannot be written.
        """
        try:
            with staged(directory, replace=force) as stage:
                for name, data in files.items():
                    (stage / name).write_bytes(data)
                # It took its time: others may have been faster.
                self.require_free(directory, force=force)
        except OSError as error:
            raise ExportError(
                "The output cannot be written; nothing of it was left behind.",
                where=str(directory),
                got=error.strerror or str(error),
                fix="free space or choose another place with -o",
            ) from error
        return {name: len(data) for name, data in files.items()}


def _taken(problem: str, where: Path, got: str | None = None) -> ExportError:
    return ExportError(problem, where=str(where), got=got, fix="choose another with -o")
