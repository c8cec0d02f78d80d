"""What reads checkpoints in a process of its own (`reading`), and describes them for the other one.

This module and what it imports are all that sees a file as it is. They need the standard library
alone, so that the process starts at once.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
import struct
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from apot_export.budgets import BYTES, Budget, max_memory
from apot_export.errors import CheckpointError, UnsafeCheckpointError
from apot_export.original._containers import ARCHIVE_HEAD, LEGACY_HEAD, content_of
from apot_export.original._data import Reading, StandIn, Tensor, allow_memory
from apot_export.original._pickles import array_of

LIMITS = ("RLIMIT_CPU", "RLIMIT_AS", "RLIMIT_FSIZE", "RLIMIT_STACK", "RLIMIT_CORE")
"""What the operating system limits in a process that reads, where it can: see `limits`."""
_BASE_SECONDS, _BYTES_A_SECOND = 20, 20 << 20
_BASE_MEMORY, _STACK_BYTES = 256 << 20, 8 << 20
_LARGEST_INTEGER = 4096
"""Bits; a larger one is described as infinite."""
_DEEPEST = 8
"""Levels of dicts and lists that are described."""
_SHOWN_BYTES = 8
_DAMAGE = (
    *(pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError),
    *(LookupError, TypeError, AttributeError, AssertionError, ArithmeticError, struct.error),
)
"""What reading bytes that only look like a checkpoint raises."""


def limits(file_bytes: int) -> tuple[int, ...]:
    """Return what a process that reads a file of this size may use, in the order of `LIMITS`."""
    memory = file_bytes + Budget(file_bytes).most(BYTES) + _BASE_MEMORY
    return (_BASE_SECONDS + file_bytes // _BYTES_A_SECOND, memory, memory, _STACK_BYTES, 0)


def main() -> None:
    """Read standard input, a file, and write to standard output, an empty one.

    Arguments of the command line: the file's path, and what `max_memory` was given, or nothing.
    Writes the numbers that `read` keeps, then its result, then the size of that in 8 bytes.
    """
    path, stated = Path(sys.argv[-2]), sys.argv[-1]
    with (
        max_memory(int(stated) if stated else None),
        open(0, "rb", closefd=False) as file,
        open(1, "r+b", closefd=False) as kept,
    ):
        with suppress(ImportError):  # Windows limits processes in other ways
            import resource

            for name, most in zip(LIMITS, limits(file.seek(0, 2)), strict=True):
                place = getattr(resource, name)
                hard = resource.getrlimit(place)[1]
                # A lower one that holds already stays; macOS has some that cannot be set.
                with suppress(ValueError, OSError):
                    resource.setrlimit(place, (most, hard))
        result = json.dumps(read(file, kept, path)).encode()
        kept.seek(0, 2)
        kept.write(result + struct.pack("<q", len(result)))


def read(file: BinaryIO, kept: BinaryIO, path: Path) -> dict[str, Any]:
    """Describe what a checkpoint's file holds, without running anything of it.

    Args:
        file: The file, open.
        kept: Open for reading and writing; gets numbers that are in the file in another form.
        path: Its path, for messages.

    Returns:
        What JSON can say: under "nodes" the content and its parts, which name each other by
        [index]; or under "error" the class of an error and what it is made of.
    """
    size = file.seek(0, 2)
    file.seek(0)
    head = file.read(_SHOWN_BYTES)
    reading = Reading(where=str(path), budget=Budget(size), kept=kept)
    try:
        result = _described(reading, content_of(reading, file, path.suffix))
    except CheckpointError as error:
        result = _failure(error)
    except MemoryError:
        result = _failure(
            CheckpointError(
                "Reading the checkpoint takes more memory than there is.",
                where=str(path),
                fix=allow_memory(2 * limits(size)[1]),
            )
        )
    except _DAMAGE as error:
        result = _failure(
            CheckpointError(
                "The file is not a readable PyTorch checkpoint.",
                where=str(path),
                expected="a file written by torch.save, complete, or safetensors",
                got=f"{size} bytes that begin with {head!r} "
                f"({type(error).__name__}: {' '.join(str(error).splitlines()[:1])})",
                fix="check that the file is a checkpoint and was copied whole",
            )
        )
    return _failure(_unsafe(reading.foreign, path)) if reading.foreign else result


def _unsafe(foreign: Iterable[str], path: Path) -> UnsafeCheckpointError:
    return UnsafeCheckpointError(
        "The checkpoint holds objects of classes that would run code; nothing of it was run.",
        where=str(path),
        expected="tensors, numbers, texts and other plain data",
        got=", ".join(foreign),
        fix="where you trust the file, re-save its plain data in Python, with its classes at "
        f"hand:\n{re_saving(path)}",
    )


def _failure(error: CheckpointError) -> dict[str, Any]:
    return {"error": [type(error).__name__, vars(error)]}


def _described(reading: Reading, content: object) -> dict[str, Any]:
    """Return a description of what a file holds, as deep as anybody looks: see `read`."""
    parts, places = [content], {id(content): 0}

    def reference(value: Any) -> Any:
        if isinstance(value, int) and value.bit_length() > _LARGEST_INTEGER:
            return math.inf
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, str):
            reading.spend(len(value))  # the same one may be named again and again
            return value
        if id(value) not in places:
            places[id(value)] = len(parts)
            parts.append(value)
        return [places[id(value)]]

    nodes: list[list[Any]] = []
    for _ in range(_DEEPEST):
        nodes += [_node(reading, value, reference) for value in parts[len(nodes) :]]
    nodes += [_outline(value) for value in parts[len(nodes) :]]
    return {"nodes": nodes}


def _node(reading: Reading, value: Any, reference: Callable[[Any], Any]) -> list[Any]:
    """Return the kind of a value and what it holds, each part by `reference`."""
    if isinstance(value, (list, tuple)):
        return ["list", [reference(item) for item in value]]
    tensor = array_of(reading, value) if isinstance(value, StandIn) else value
    if isinstance(tensor, Tensor):
        return ["tensor", dataclasses.astuple(tensor)]
    if not isinstance(value, (dict, StandIn)):
        return _outline(value)
    pairs = [
        [reference(key), reference(item)]
        for key, item in (value if isinstance(value, dict) else value.held).items()
    ]
    return ["dict", pairs] if isinstance(value, dict) else ["object", value.name, pairs]


def _outline(value: object) -> list[Any]:
    return ["object", type(value).__name__, []]


def re_saving(path: Path, *, rounded: bool = False) -> str:
    """Return the lines of Python that write a checkpoint's plain data anew, beside it.

    Args:
        path: The checkpoint.
        rounded: Whether float64 becomes float32.
    """
    name = str(path)
    with path.open("rb") as file:
        head = file.read(2 * _SHOWN_BYTES)
    resaved = path.with_name(f"resaved_{path.name}")
    if head.startswith(ARCHIVE_HEAD) or LEGACY_HEAD in head:
        read = f"torch.load({name!r}, map_location='cpu', weights_only=False, encoding='latin1')"
    elif path.suffix == ".safetensors":
        read = f"__import__('safetensors.torch').torch.load_file({name!r})"
        resaved = resaved.with_suffix(".pth")
    else:
        read = f"__import__('pickle').load(open({name!r}, 'rb'), encoding='latin1')"
    tensor = "x.float()" if rounded else "x.detach().as_subclass(torch.Tensor)"
    return "\n".join(
        [
            "import torch",
            f"old = {read}",
            f"plain = lambda x: {tensor} if isinstance(x, torch.Tensor) "
            "else None if isinstance(x, type) "
            "else {'state_dict': plain(x.state_dict())} if hasattr(x, 'state_dict') "
            "else {str(k): plain(v) for k, v in x.items()} if isinstance(x, dict) "
            "else [plain(v) for v in x] if isinstance(x, (list, tuple)) "
            "else float(x) if isinstance(x, float) else x if type(x) in (bool, int, str) else None",
            f"torch.save(plain(old), {str(resaved)!r})",
        ]
    )
