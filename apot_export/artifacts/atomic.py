"""Files and folders that appear complete or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def _staged(directory: Path) -> Iterator[Path]:
    """Yield a sibling folder that becomes `directory` on success and vanishes on failure."""
    target = Path(os.path.realpath(directory))
    missing = [parent for parent in target.parents if not parent.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            yield stage
            umask = os.umask(0)
            os.umask(umask)
            stage.chmod(0o777 & ~umask)
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
