"""Files and folders that appear complete or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_file(path: Path, data: bytes) -> None:
    """Write a file in one step: readers see the earlier content or the new one, never a part.

    A file that is replaced keeps its permissions.

    Raises:
        OSError: The file cannot be written; an earlier one is as it was.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.absolute().parent)
    stage = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, stage)
        else:
            stage.chmod(_permitted(0o666))
        stage.replace(path)
    except BaseException:
        stage.unlink(missing_ok=True)
        raise


@contextmanager
def staged(directory: Path) -> Iterator[Path]:
    """Yield a sibling folder that becomes `directory` on success and vanishes on failure.

    Parents that do not exist are made. An earlier folder at `directory` is replaced.
    """
    target = Path(os.path.realpath(directory))
    missing = [parent for parent in target.parents if not parent.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            yield stage
            stage.chmod(_permitted(0o777))
            if target.exists():
                _replace(target, stage)
            else:
                stage.rename(target)
        except BaseException:
            shutil.rmtree(stage, ignore_errors=True)
            raise
    except BaseException:
        for parent in missing:
            with suppress(OSError):
                parent.rmdir()
        raise


def _permitted(mode: int) -> int:
    """Return a mode without what the process's umask takes away."""
    umask = os.umask(0)
    os.umask(umask)
    return mode & ~umask


def _replace(target: Path, stage: Path) -> None:
    """Put a complete folder in the place of an earlier one, or leave the earlier one there."""
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        target.rename(old / target.name)
        stage.rename(target)
    except BaseException:
        if not target.exists():
            (old / target.name).rename(target)
        old.rmdir()
        raise
    shutil.rmtree(old, ignore_errors=True)
