"""Reading `.pth.tar` files without running anything that is in them."""

from __future__ import annotations

import hashlib
import io
import pickle
import pickletools
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from apot_export.errors import CheckpointError, UnsafeCheckpointError

_STATE_DICT_KEYS = ("state_dict", "model", "net_state_dict")
_DATA_PARALLEL_PREFIX = "module."
_HARMLESS_MODULES = ("torch", "collections", "_codecs")
"""Top-level modules whose globals the safe loader resolves itself."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """The tensors of a checkpoint and where they came from."""

    path: Path
    sha256: str
    state: dict[str, torch.Tensor]
    """State dict on the CPU, without the DataParallel prefix, in file order."""


def load_checkpoint(path: Path) -> Checkpoint:
    """Load a checkpoint's state dict on the CPU, safely.

    Raises:
        UnsafeCheckpointError: The pickle wants globals other than tensors' own; nothing was run.
        CheckpointError: The file is missing, no checkpoint, damaged, or holds no state dict.
    """
    if not path.exists():
        raise CheckpointError(
            "The checkpoint does not exist.", where=str(path), fix="check the path"
        )
    if not path.is_file():
        raise CheckpointError(
            "The checkpoint is not a file.",
            where=str(path),
            expected="a .pth.tar file",
            fix="name the checkpoint file inside the folder",
        )
    state = _state_dict(_load_safely(path), path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else None
        if digest is None:  # Python 3.10
            digest = hashlib.sha256(file.read())
    return Checkpoint(path=path, sha256=digest.hexdigest(), state=state)


def _load_safely(path: Path) -> object:
    try:
        with path.open("rb") as file:
            head = file.read(2)
    except OSError as error:
        raise CheckpointError(
            "The checkpoint cannot be opened.", where=str(path), got=str(error)
        ) from error
    is_archive = head == b"PK"
    if is_archive and not zipfile.is_zipfile(path):
        raise CheckpointError(
            "The checkpoint is truncated: it begins like a zip archive but has no directory.",
            where=str(path),
            got=f"{path.stat().st_size} bytes",
            fix="copy or download the file again",
        )
    try:
        # Mapped, not read: the optimizer's state, often twice the weights, never becomes memory.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError) as error:
        raise _explained(path, is_archive, error) from error
    except (KeyError, IndexError, TypeError, AttributeError, AssertionError, MemoryError) as error:
        # What the safe unpickler and the legacy reader raise on bytes that only look like a pickle.
        raise _explained(path, is_archive, error) from error


def _explained(path: Path, is_archive: bool, error: BaseException) -> CheckpointError:
    wanted = _foreign_globals(path, is_archive)
    if wanted:
        return UnsafeCheckpointError(
            "The checkpoint wants to import code when it is loaded; nothing of it was run.",
            where=str(path),
            expected="tensors, numbers and strings only",
            got=", ".join(wanted),
            fix="re-save it where you trust it: torch.save({'state_dict': net.state_dict()}, path)",
        )
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return CheckpointError(
        "The file is not a readable PyTorch checkpoint.",
        where=str(path),
        expected="a file written by torch.save, complete",
        got=first_line,
        fix="check that the file is a checkpoint and was copied whole",
    )


def _foreign_globals(path: Path, is_archive: bool) -> list[str]:
    """List the globals named in a checkpoint's pickles beyond those of tensors, without running."""
    try:
        if is_archive:
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if name.endswith("data.pkl")]
                streams = [archive.read(name) for name in names]
        else:
            streams = [path.read_bytes()]
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError):
        return []
    found: dict[str, None] = {}
    for stream in streams:
        for name in _globals_of_pickles(stream):
            if name.split(".")[0] not in _HARMLESS_MODULES:
                found[name] = None
    return list(found)


def _globals_of_pickles(stream: bytes) -> list[str]:
    """Return `module.name` of every global in the pickles that stand one after the other."""
    names: list[str] = []
    buffer = io.BytesIO(stream)
    try:
        while buffer.tell() < len(stream):
            strings: list[str] = []
            for opcode, argument, _ in pickletools.genops(buffer):
                if opcode.name in ("GLOBAL", "INST"):
                    names.append(str(argument).replace(" ", "."))
                elif opcode.name == "STACK_GLOBAL":
                    names.append(".".join(strings[-2:]))
                elif isinstance(argument, str):
                    strings.append(argument)
    except (ValueError, EOFError, IndexError, UnicodeDecodeError):
        pass  # The end of the pickles: tensor data, or damage that the caller reports.
    return names


def _state_dict(content: object, path: Path) -> dict[str, torch.Tensor]:
    if not isinstance(content, Mapping):
        raise CheckpointError(
            "The checkpoint holds no state dict.",
            where=str(path),
            expected="a dict",
            got=type(content).__name__,
        )
    found: Mapping[Any, Any] = content
    for key in _STATE_DICT_KEYS:
        if isinstance(content.get(key), Mapping):
            found = content[key]
            break
    tensors = {key: value for key, value in found.items() if isinstance(value, torch.Tensor)}
    if not tensors or len(tensors) != len(found) or not all(isinstance(key, str) for key in found):
        keys = ", ".join(str(key) for key in list(found)[:8]) or "nothing"
        raise CheckpointError(
            "The checkpoint holds no state dict.",
            where=str(path),
            expected="tensors by name, at the top or under " + ", ".join(_STATE_DICT_KEYS),
            got=keys,
        )
    if all(key.startswith(_DATA_PARALLEL_PREFIX) for key in tensors):
        tensors = {key[len(_DATA_PARALLEL_PREFIX) :]: value for key, value in tensors.items()}
    for key, tensor in tensors.items():
        if tensor.is_sparse or tensor.is_quantized or tensor.dtype not in _ALLOWED_TYPES:
            raise CheckpointError(
                "A tensor of the checkpoint has a type that the family does not use.",
                where=key,
                expected="dense float32 (or an integer counter)",
                got=str(tensor.dtype),
            )
    return {key: tensor.detach() for key, tensor in tensors.items()}


_ALLOWED_TYPES = (torch.float32, torch.int64)
