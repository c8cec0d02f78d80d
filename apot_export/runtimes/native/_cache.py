"""Compiled libraries kept for the user: what is loaded was written by nobody else, and is whole."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

from apot_export.artifacts.atomic import temporary_folder
from apot_export.errors import KernelError

CACHE_VARIABLE = "APOT_EXPORT_CACHE"
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def cached(key: str, build: Callable[[Path], Path]) -> Path:
    """Return a library of the user's cache, built first where there is none.

    Its name is the key and the SHA-256 of its content, which is compared before it is returned.

    Args:
        key: Digest of all that the library is made from.
        build: Builds it in a folder and returns its path.

    Raises:
        KernelError: The cache cannot be written, or others can write to it.
    """
    folder = _folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = folder.resolve(strict=True)
        _require_private(folder)
        for path in sorted(folder.glob(f"{key}-*.so")):
            if path.name == _name(key, path) and _is_ours(path.lstat()):
                return path
        with temporary_folder(folder) as work:
            library = build(work)
            library.chmod(0o700)
            return library.replace(folder / _name(key, library))
    except OSError as error:
        raise KernelError(
            "The kernels' cache cannot be written.",
            where=str(folder),
            got=str(error),
            fix=f"name another folder in the environment's {CACHE_VARIABLE}",
        ) from error


def _name(key: str, library: Path) -> str:
    return f"{key}-{hashlib.sha256(library.read_bytes()).hexdigest()}.so"


def _folder() -> Path:
    """Return where the environment has the cache; a path of XDG's counts where it is absolute."""
    named, shared = os.environ.get(CACHE_VARIABLE), os.environ.get("XDG_CACHE_HOME", "")
    if named:
        return Path(named)
    if Path(shared).is_absolute():
        return Path(shared) / "apot-export"
    try:
        return Path.home() / ".cache" / "apot-export"
    except RuntimeError as error:
        raise KernelError(
            "There is no home folder for the kernels' cache.",
            got=str(error),
            fix=f"name a folder in the environment's {CACHE_VARIABLE}",
        ) from error


def _require_private(folder: Path) -> None:
    """Raise `KernelError` where somebody else could put a library into a folder."""
    for place in (folder, *folder.parents):
        status = place.stat()
        if place == folder:
            is_private = _is_ours(status)
        else:
            # Of a sticky folder, as /tmp, nobody moves what is another's; and on many systems, the
            # group of a user's folders is the user's own.
            is_private = not status.st_mode & stat.S_IWOTH or bool(status.st_mode & stat.S_ISVTX)
        if not is_private:
            raise KernelError(
                "Others could put native code into the kernels' cache.",
                where=str(place),
                expected="a folder of this user that nobody else can write to",
                got=f"mode {stat.S_IMODE(status.st_mode):o}, owner {status.st_uid}",
                fix=f"chmod go-w {place}, or name another folder in the environment's "
                f"{CACHE_VARIABLE}",
            )


def _is_ours(status: os.stat_result) -> bool:
    """Tell whether this user alone writes to something; on Windows, its own rules hold."""
    if not hasattr(os, "geteuid"):
        return True
    return status.st_uid == os.geteuid() and not status.st_mode & _OTHERS_WRITE
