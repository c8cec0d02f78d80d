"""The containers of checkpoints: PyTorch's two formats, plain pickles, and safetensors.

Files are mapped, not read: the optimizer's state, often twice the weights, never becomes memory.
"""

from __future__ import annotations

import io
import json
import mmap
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from apot_export.errors import CheckpointError, UnsafeCheckpointError
from apot_export.original._pickles import StorageReader, unpickle

METADATA = "__metadata__"
"""Key of the texts that a safetensors file keeps beside its tensors."""
_READ_BYTES = 1 << 20
_SHOWN_BYTES = 8
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""What PyTorch's format before 1.6 begins with, pickled."""
_LEGACY_HEAD = b"\x8a\nl\xfc\x9cF"
"""The first bytes of this number in the file."""
_LOCAL_HEADER = 30
"""Bytes of a zip entry's own header, before its name and extra field."""
_DAMAGE = (
    *(pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError, MemoryError),
    *(LookupError, TypeError, AttributeError, AssertionError, ArithmeticError, struct.error),
)
"""What reading bytes that only look like a checkpoint raises."""
_TENSOR_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Types of tensors by their names in safetensors files."""


def read_container(path: Path) -> Any:
    """Return what a checkpoint's file holds, without running anything of it.

    Raises:
        UnsafeCheckpointError: There are objects of classes that are no plain data.
        CheckpointError: The file cannot be opened, is damaged, or no checkpoint.
    """
    foreign: dict[str, None] = {}
    head, is_archive = b"", False
    try:
        with path.open("rb") as file:
            head = file.read(_SHOWN_BYTES)
            is_archive = head.startswith(b"PK")
            # Private: what writes to a tensor does not write to the file.
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) if head else None
    except OSError as error:
        raise CheckpointError(
            "The checkpoint cannot be opened.", where=str(path), got=str(error)
        ) from error
    try:
        if data is None:
            raise EOFError("Ran out of input")
        if is_archive:
            content = _of_archive(path, data, foreign)
        elif path.suffix == ".safetensors":
            content = _of_safetensors(data)
        else:
            content = _of_stream(data, foreign)
    except _DAMAGE as error:
        if not foreign:
            raise CheckpointError(
                "The file is not a readable PyTorch checkpoint.",
                where=str(path),
                expected="a file written by torch.save, complete, or safetensors",
                got=f"{path.stat().st_size} bytes that begin with {head!r} "
                f"({type(error).__name__}: {' '.join(str(error).splitlines()[:1])})",
                fix="check that the file is a checkpoint and was copied whole",
            ) from error
    if foreign:
        raise UnsafeCheckpointError(
            "The checkpoint holds objects of classes that would run code; nothing of it was run.",
            where=str(path),
            expected="tensors, numbers, texts and other plain data",
            got=", ".join(foreign),
            fix="where you trust the file, re-save its plain data in Python, with its classes at "
            f"hand:\n{re_saving(path)}",
        )
    return content


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
    if head.startswith(b"PK") or _LEGACY_HEAD in head:
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


# --- PyTorch's zip archives -----------------------------------------------------------------------


def _check_archive(path: Path) -> None:
    """Compare a zip archive with its checksums, which PyTorch ignores.

    Raises:
        CheckpointError: It is truncated or damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.CRC:  # torch.save can be told to write none
                    with archive.open(entry) as file:
                        while file.read(_READ_BYTES):
                            pass
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            "The checkpoint is a truncated or damaged zip archive.",
            where=str(path),
            expected="a complete archive that fits its checksums",
            got=f"{path.stat().st_size} bytes; {error}",
            fix="copy or download the file again",
        ) from error


def _of_archive(path: Path, data: mmap.mmap, foreign: dict[str, None]) -> Any:
    _check_archive(path)
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}

        def place_of(entry: zipfile.ZipInfo) -> tuple[Any, int]:
            """Return a buffer and where in it an entry's bytes begin."""
            if entry.compress_type != zipfile.ZIP_STORED:
                return bytearray(archive.read(entry)), 0
            start = entry.header_offset + _LOCAL_HEADER
            return data, start + sum(struct.unpack("<HH", data[start - 4 : start]))

        def bytes_of(name: str) -> bytes:
            buffer, start = place_of(entries[name])
            return bytes(buffer[start : start + entries[name].file_size])

        (name,) = (name for name in entries if name.rpartition("/")[2] == "data.pkl")
        folder = name.removesuffix("data.pkl")
        if f"{folder}byteorder" in entries and bytes_of(f"{folder}byteorder") != b"little":
            raise ValueError("numbers of a big-endian machine")
        storages: dict[tuple[str, torch.dtype], torch.Tensor] = {}

        def storage(key: str, dtype: torch.dtype, count: int) -> torch.Tensor:
            if (key, dtype) not in storages:
                entry = entries[f"{folder}data/{key}"]
                storages[key, dtype] = _numbers(*place_of(entry), entry.file_size, dtype, count)
            return storages[key, dtype]

        return unpickle(io.BytesIO(bytes_of(name)), foreign, storage, _nested(foreign))


def _numbers(buffer: Any, start: int, size: int, dtype: torch.dtype, count: int) -> torch.Tensor:
    """Return numbers in a buffer as a flat tensor that shares its memory where it can.

    Raises:
        ValueError: They are not there.
    """
    if not 0 <= count * dtype.itemsize <= size or start + size > len(buffer):
        raise ValueError(f"{count} numbers of {dtype} in {size} bytes")
    if not count:
        return torch.empty(0, dtype=dtype)
    if start % dtype.itemsize:
        buffer, start = bytearray(buffer[start : start + size]), 0
    return torch.frombuffer(buffer, dtype=dtype, count=count, offset=start)


# --- streams of pickles ---------------------------------------------------------------------------


def _of_stream(data: mmap.mmap | bytes, foreign: dict[str, None]) -> Any:
    """Return what PyTorch's format before 1.6 holds, or a plain pickle."""
    stream: Any = io.BytesIO(data) if isinstance(data, bytes) else data
    storages: dict[str, torch.Tensor] = {}
    nested = _nested(foreign)

    def storage(key: str, dtype: torch.dtype, count: int) -> torch.Tensor:
        if not 0 <= count * dtype.itemsize <= len(data):
            raise ValueError(f"{count} numbers of {dtype} in a file of {len(data)} bytes")
        if key not in storages:
            storages[key] = torch.empty(count, dtype=dtype)
        return storages[key]

    def read(numbers: StorageReader | None = None) -> Any:
        return unpickle(stream, foreign, numbers, nested)

    first = read()
    if not isinstance(first, int) or first != _LEGACY_MAGIC:
        return first
    _protocol, system = read(), read()
    if not system.get("little_endian", True):
        raise ValueError("numbers of a big-endian machine")
    content = read(storage)
    for key in read():
        numbers = storages[str(key)]
        (count,) = struct.unpack("<q", stream.read(8))
        raw = stream.read(numbers.numel() * numbers.element_size())
        if count != numbers.numel() or len(raw) != count * numbers.element_size():
            raise EOFError(f"the numbers of storage {key!r} are not complete")
        if count:
            numbers.copy_(torch.frombuffer(raw, dtype=numbers.dtype))
    return content


def _nested(foreign: dict[str, None]) -> Any:
    return lambda data: _of_stream(bytes(data), foreign)


# --- safetensors ----------------------------------------------------------------------------------


def _of_safetensors(data: mmap.mmap) -> dict[str, Any]:
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    content: dict[str, Any] = {METADATA: header.pop(METADATA, {})}
    for key, entry in header.items():
        start, end = entry["data_offsets"]
        dtype, shape = _TENSOR_TYPES[entry["dtype"]], entry["shape"]
        count = (end - start) // dtype.itemsize
        numbers = _numbers(data, 8 + size + start, end - start, dtype, count)
        content[key] = numbers.reshape(shape)
    return content
