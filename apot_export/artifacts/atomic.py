"""Files and folders that appear complete or not at all, even where the process is killed.

They are made in a temporary folder beside their place and put there in one step. Its maker holds a
lock on that folder, which ends with the process: so those that were left by killed processes are
known, and the next one that writes to the same place removes them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TEMPORARY = ".apot-export."
"""How the names of temporary folders begin."""
_OLD = "old"
"""Folder of a temporary folder, for what is replaced where it takes two steps."""
_CURRENT_FOLDER, _EXCHANGE = -100, 2
"""AT_FDCWD and RENAME_EXCHANGE of Linux."""


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Yield a new folder that is gone afterwards; first remove those that killed processes left.

    Raises:
        OSError: It cannot be made in `parent`.
    """
    for left in parent.glob(f"{TEMPORARY}*"):
        _remove_abandoned(left)
    folder, lock = _locked_folder(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield where to write a file that takes the place of another on success.

    Readers see the earlier content or the new one, never a part. A file that is replaced keeps its
    permissions. Of a symbolic link, what it points to is replaced.

    Raises:
        OSError: The file cannot be written; an earlier one is as it was.
    """
    target = Path(os.path.realpath(path))
    with temporary_folder(target.parent) as folder:
        new = folder / target.name
        yield new
        _synchronise(new)
        if target.exists():
            shutil.copymode(target, new)
        new.replace(target)


@contextmanager
def staged(directory: Path, *, replace: bool) -> Iterator[Path]:
    """Yield a folder that becomes `directory` on success and vanishes on failure.

    It may hold files, no folders. Parents that do not exist are made.

    Args:
        directory: What appears complete: a folder that does not exist yet, or is empty.
        replace: Replace an earlier folder that holds something.

    Raises:
        OSError: It cannot be written; an earlier folder is as it was.
    """
    target = Path(os.path.realpath(directory))
    missing = [parent for parent in target.parents if not parent.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(target.parent) as folder:
            new = folder / target.name
            new.mkdir()
            yield new
            for written in (*new.iterdir(), new):
                _synchronise(written)
            try:
                new.rename(target)
            except OSError as error:
                if not replace or error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise
                _exchange(new, target)
    except BaseException:
        for parent in missing:
            with suppress(OSError):
                parent.rmdir()
        raise


def _exchange(new: Path, target: Path) -> None:
    """Exchange two folders in one step; in two where the system or the file system has no such."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    names = os.fsencode(new), os.fsencode(target)
    if rename and not rename(_CURRENT_FOLDER, names[0], _CURRENT_FOLDER, names[1], _EXCHANGE):
        return
    number = ctypes.get_errno() if rename else errno.ENOSYS
    if number not in {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}:
        raise OSError(number, os.strerror(number), str(target))
    old = new.with_name(_OLD) / target.name
    old.parent.mkdir()
    try:
        target.rename(old)
        new.rename(target)
    except BaseException:
        _restore(old)
        raise


def _restore(old: Path) -> None:
    """Put a folder back that was about to be replaced, unless the new one is in its place."""
    place = old.parents[2] / old.name
    if old.exists() and not os.path.lexists(place):
        old.rename(place)


def _locked_folder(parent: Path) -> tuple[Path, int | None]:
    """Make a temporary folder; return it with the open descriptor of its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=parent))
        try:
            return folder, _lock(folder)
        except (BlockingIOError, FileNotFoundError):
            continue  # another process took it for an abandoned one, before it was locked
        except OSError:
            return folder, None  # a file system without locks: nobody can take it


def _remove_abandoned(folder: Path) -> None:
    """Remove a temporary folder, if it is certain that its maker does not live."""
    with suppress(OSError):
        lock = _lock(folder)
        try:
            for old in (folder / _OLD).glob("*"):
                _restore(old)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


def _lock(folder: Path) -> int:
    """Open and lock a folder; the lock ends with the descriptor, or with the process.

    Raises:
        BlockingIOError: Another process has the lock.
        FileNotFoundError: The folder is gone.
        OSError: The file system has no locks of folders.
    """
    import fcntl  # systems without it can still read exports

    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        folder.stat()
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _synchronise(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
