"""Checkpoints read by a process of their own, with limits: what breaks it does not break this one.

The process gets the open file and an empty one, and describes in the latter what the former holds
(`_child`). Tensors are made here: of the numbers in the files, which are mapped, not read.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from apot_export import errors
from apot_export.budgets import stated_memory
from apot_export.errors import CheckpointError
from apot_export.original import _child
from apot_export.original._data import StandIn

if TYPE_CHECKING:
    import torch

_PROGRAM = "import sys; sys.path.append({!r}); from {} import main; main()"
_PACKAGES = Path(__file__).parents[2]
_SIZE_BYTES = 8
_in_process: ContextVar[bool] = ContextVar("in_process", default=False)


@contextmanager
def in_process(*, wanted: bool = True) -> Iterator[None]:
    """Let checkpoints that are opened inside be read by this process, where no other can start.

    What a file may ask for is limited as ever; but nothing limits this process's time, and what
    would crash the other one crashes this one. Counts for this thread.
    """
    token = _in_process.set(wanted)
    try:
        yield
    finally:
        _in_process.reset(token)


def read_container(path: Path) -> tuple[Any, str]:
    """Return what a checkpoint's file holds, without running anything of it, and its SHA-256.

    Raises:
        UnsafeCheckpointError: There are objects of classes that are no plain data.
        CheckpointError: The file cannot be opened, is damaged, no checkpoint, or asks for more
            than it may.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise CheckpointError(
            "The checkpoint cannot be opened.", where=str(path), got=str(error)
        ) from error
    with file, tempfile.TemporaryFile() as kept:
        if _in_process.get():
            result = _child.read(file, kept, path)
        else:
            result = _read_by_another(file, kept, path)
        if "error" in result:
            kind, parts = result["error"]
            raise getattr(errors, kind)(**parts)
        mapped = _mapped(file)
        digest = hashlib.sha256(mapped).hexdigest()
        with suppress(AttributeError):  # of mmap, on Windows
            mapped.madvise(mmap.MADV_DONTNEED)  # these bytes need not stay in memory
        return _rebuilt(result, [mapped, _mapped(kept)]), digest


def _read_by_another(file: BinaryIO, kept: BinaryIO, path: Path) -> dict[str, Any]:
    program = _PROGRAM.format(str(_PACKAGES), _child.__name__)
    memory = "" if stated_memory() is None else str(stated_memory())
    command = [sys.executable, "-I", "-S", "-c", program, str(path), memory]
    try:
        # This Python, on this module: nothing of the file is in the command.
        done = subprocess.run(command, stdin=file, stdout=kept, stderr=subprocess.PIPE, check=False)  # noqa: S603
    except (OSError, ValueError) as error:
        raise CheckpointError(
            "The process that reads checkpoints cannot be started.",
            where=sys.executable,
            got=str(error),
            fix="where no process can be started, read it in this one: --in-process (in Python: "
            "apot_export.in_process)",
        ) from error
    if done.returncode:
        raise _stopped(done.returncode, done.stderr, file, path)
    end = kept.seek(-_SIZE_BYTES, 2)
    size = int.from_bytes(kept.read(_SIZE_BYTES), "little")
    kept.seek(end - size)
    result: dict[str, Any] = json.loads(kept.read(size))
    return result


def _stopped(code: int, said: bytes, file: BinaryIO, path: Path) -> CheckpointError:
    """Return the error of a file whose reader did not end well."""
    seconds = _child.limits(file.seek(0, 2))[0]
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    lines = said.decode(errors="replace").splitlines()
    is_slow = name == "SIGXCPU"
    return CheckpointError(
        "The process that reads the checkpoint was stopped.",
        where=str(path),
        expected=f"at most {seconds} s of a processor" if is_slow else "a file that can be read",
        got=f"{name}{': ' + lines[-1] if lines else ''}",
        fix="do not use a file that you do not trust; if you do trust it, read it "
        + ("without a limit on time: --in-process" if is_slow else "again, and report the file"),
    )


def _mapped(file: BinaryIO) -> mmap.mmap:
    size = file.seek(0, 2)
    file.flush()
    # Private: what writes to a tensor does not write to the file.
    return mmap.mmap(file.fileno() if size else -1, size or 1, access=mmap.ACCESS_COPY)


def _rebuilt(result: dict[str, Any], files: list[Any]) -> Any:
    """Make what a description describes; see `_child.read`."""
    storages: dict[tuple[Any, ...], torch.Tensor] = {}

    def empty(kind: str, first: Any, *_: Any) -> Any:
        if kind == "tensor":
            return _tensor(first, files, storages)
        return StandIn(first) if kind == "object" else {} if kind == "dict" else []

    made = [empty(*node) for node in result["nodes"]]

    def value(described: Any) -> Any:
        return made[described[0]] if isinstance(described, list) else described

    for (kind, *parts), target in zip(result["nodes"], made, strict=True):
        if kind == "list":
            target.extend(map(value, parts[0]))
        elif kind != "tensor":
            held = target.held if kind == "object" else target
            held.update((key, value(item)) for key, item in parts[-1])
    return made[0]


def _tensor(
    described: list[Any], files: list[Any], storages: dict[tuple[Any, ...], torch.Tensor]
) -> torch.Tensor:
    import torch  # late: what is wrong with a path is told before

    name, (_, size, start, is_kept), offset, shape, strides = described
    dtype: torch.dtype = getattr(torch, name)
    if 0 in shape:
        return torch.empty(shape, dtype=dtype)
    place = (name, size, start, is_kept)
    if place not in storages:
        buffer, count = files[is_kept], size // dtype.itemsize
        if start % dtype.itemsize:
            buffer, start = bytearray(buffer[start : start + size]), 0
        storages[place] = torch.frombuffer(buffer, dtype=dtype, count=count, offset=start)
    return storages[place].as_strided(shape, strides, offset)
