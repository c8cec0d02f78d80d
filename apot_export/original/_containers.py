"""The containers of checkpoints: PyTorch's two formats, plain pickles, and safetensors.

Numbers stay in the file: the optimizer's state, often twice the weights, never becomes memory. This
module, which is all that sees a file as it is, runs in a process of its own (`reading`); it needs
the standard library alone, so that the process starts at once.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import mmap
import pickle
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from apot_export.budgets import BYTES, JSON_BYTES, Budget, max_memory
from apot_export.errors import CheckpointError, UnsafeCheckpointError
from apot_export.original._data import (
    ITEM_BYTES,
    Reading,
    StandIn,
    Storage,
    Tensor,
    allow_memory,
)
from apot_export.original._pickles import Storages, array_of, unpickle

METADATA = "__metadata__"
"""Key of the texts that a safetensors file keeps beside its tensors."""
LIMITS = ("RLIMIT_CPU", "RLIMIT_AS", "RLIMIT_FSIZE", "RLIMIT_STACK", "RLIMIT_CORE")
"""What the operating system limits in a process that reads, where it can: see `limits`."""
_BASE_SECONDS, _BYTES_A_SECOND = 20, 20 << 20
_BASE_MEMORY, _STACK_BYTES = 256 << 20, 8 << 20
_LARGEST_INTEGER = 4096
"""Bits; a larger one is described as infinite."""
_DEEPEST = 8
"""Levels of dicts and lists that are described."""
_PIECE = 1 << 20
_SHOWN_BYTES = 8
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""What PyTorch's format before 1.6 begins with, pickled."""
_LEGACY_HEAD = b"\x8a\nl\xfc\x9cF"
"""The first bytes of this number in the file."""
_LOCAL_HEADER, _LOCAL_MAGIC = 30, b"PK\x03\x04"
"""Bytes of a zip entry's own header before its name and extra field, and the first ones."""
_ENCRYPTED = 1
_DAMAGE = (
    *(pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError),
    *(LookupError, TypeError, AttributeError, AssertionError, ArithmeticError, struct.error),
    *(zipfile.BadZipFile, zlib.error),
)
"""What reading bytes that only look like a checkpoint raises."""
_TENSOR_TYPES = {
    "BF16": "bfloat16",
    "BOOL": "bool",
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
}
"""PyTorch's types of numbers by their names in safetensors files."""


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
        result = _described(reading, _content(reading, file, head, path.suffix))
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


def _content(reading: Reading, file: BinaryIO, head: bytes, suffix: str) -> Any:
    """Return what the file holds, as `_pickles` has it."""
    if not head:
        raise EOFError("Ran out of input")
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if head.startswith(b"PK"):
            return _of_archive(reading, file, data)
        return (_of_safetensors if suffix == ".safetensors" else _of_stream)(reading, data)


def _described(reading: Reading, content: object) -> dict[str, Any]:
    """Return a description of what a file holds, as deep as anybody looks: see `read`."""
    parts, places = [content], {id(content): 0}

    def reference(value: Any) -> Any:
        if isinstance(value, int) and value.bit_length() > _LARGEST_INTEGER:
            return math.inf
        if value is None or isinstance(value, (bool, int, float, str)):
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
        [repr(key) if isinstance(key, bytes) else key, reference(item)]
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


def _of_archive(reading: Reading, file: BinaryIO, data: mmap.mmap) -> Any:
    try:
        with zipfile.ZipFile(file) as archive:
            places = _members(reading, data, archive.infolist())
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            "The checkpoint is a truncated or damaged zip archive.",
            where=reading.where,
            expected="a complete archive that fits its checksums",
            got=f"{len(data)} bytes; {error}",
            fix="copy or download the file again",
        ) from error

    def bytes_of(name: str) -> bytes:
        place = places[name]
        source: Any = reading.kept if place.is_kept else data
        source.seek(place.start)
        return bytes(source.read(place.size))

    def storage(key: str, dtype: str, count: int) -> Storage:
        place = places[f"{folder}data/{key}"]
        size = count * ITEM_BYTES[dtype]
        if size > place.size:
            raise ValueError(f"{count} numbers of {dtype} in {place.size} bytes")
        return dataclasses.replace(place, dtype=dtype, size=size)

    (name,) = (name for name in places if name.rpartition("/")[2] == "data.pkl")
    folder = name.removesuffix("data.pkl")
    if f"{folder}byteorder" in places and bytes_of(f"{folder}byteorder") != b"little":
        raise ValueError("numbers of a big-endian machine")
    return unpickle(reading, io.BytesIO(bytes_of(name)), storage, _nested)


def _members(
    reading: Reading, data: mmap.mmap, entries: Sequence[zipfile.ZipInfo]
) -> dict[str, Storage]:
    """Return where the members of an archive are, by name."""
    if sum(entry.compress_size for entry in entries) > len(data):
        raise zipfile.BadZipFile("members that overlap")
    return {entry.filename: _member(reading, data, entry) for entry in entries}


def _member(reading: Reading, data: mmap.mmap, entry: zipfile.ZipInfo) -> Storage:
    """Return where a member's bytes are, inflated where they must be, and compare its checksum."""
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise zipfile.BadZipFile(f"{entry.filename} is neither stored nor deflated")
    if entry.flag_bits & _ENCRYPTED:
        raise zipfile.BadZipFile(f"{entry.filename} is encrypted")
    head = data[entry.header_offset : entry.header_offset + _LOCAL_HEADER]
    if len(head) < _LOCAL_HEADER or not head.startswith(_LOCAL_MAGIC):
        raise zipfile.BadZipFile(f"{entry.filename} is not where it should be")
    start = entry.header_offset + _LOCAL_HEADER + sum(struct.unpack("<HH", head[-4:]))
    end = start + entry.compress_size
    pieces: Iterable[bytes] = (data[at : min(at + _PIECE, end)] for at in range(start, end, _PIECE))
    if entry.compress_type == zipfile.ZIP_STORED:
        place = Storage("uint8", entry.compress_size, start)
    else:
        reading.spend(entry.file_size)
        place = Storage("uint8", entry.file_size, reading.kept.seek(0, 2), is_kept=True)
        pieces = _inflated(pieces, entry.file_size, reading.kept)
    size = checksum = 0
    for piece in pieces:
        size, checksum = size + len(piece), zlib.crc32(piece, checksum)
    if size != entry.file_size or end > len(data):
        raise zipfile.BadZipFile(f"{entry.filename} is not complete")
    if entry.CRC not in (0, checksum):  # torch.save can be told to write none
        raise zipfile.BadZipFile(f"Bad CRC-32 for file {entry.filename!r}")
    return place


def _inflated(pieces: Iterable[bytes], size: int, kept: BinaryIO) -> Iterator[bytes]:
    """Write down what deflated pieces hold, and yield it, up to a number of bytes."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    for piece in pieces:
        left = piece
        while left and size >= 0:
            inflated = inflater.decompress(left, _PIECE)
            left, size = inflater.unconsumed_tail, size - len(inflated)
            kept.write(inflated)
            yield inflated
    if size >= 0:
        inflated = inflater.flush()
        kept.write(inflated)
        yield inflated


# --- streams of pickles ---------------------------------------------------------------------------


def _of_stream(reading: Reading, data: mmap.mmap | bytes) -> Any:
    """Return what PyTorch's format before 1.6 holds, or a plain pickle.

    Args:
        reading: The file that it is in.
        data: The file itself, or bytes in it.
    """
    stream: Any = io.BytesIO(data) if isinstance(data, bytes) else data
    storages: dict[str, Storage] = {}

    def storage(key: str, dtype: str, count: int) -> Storage:
        size = count * ITEM_BYTES[dtype]
        if size > len(data):
            raise ValueError(f"{count} numbers of {dtype} in a file of {len(data)} bytes")
        return storages.setdefault(key, Storage(dtype, size, None))

    def read_one(found: Storages | None = None) -> Any:
        return unpickle(reading, stream, found, _nested)

    first = read_one()
    if not isinstance(first, int) or first != _LEGACY_MAGIC:
        return first
    _protocol, system = read_one(), read_one()
    if not system.get("little_endian", True):
        raise ValueError("numbers of a big-endian machine")
    content = read_one(storage)
    keys = read_one()
    base = reading.keep(data) if isinstance(data, bytes) else Storage("uint8", len(data), 0)
    for key in keys:
        numbers = storages[key if isinstance(key, str) else ""]
        (count,) = struct.unpack("<q", stream.read(8))
        numbers.start, numbers.is_kept = (base.start or 0) + stream.tell(), base.is_kept
        if count * ITEM_BYTES[numbers.dtype] != numbers.size or count > len(data):
            raise EOFError(f"the numbers of storage {key!r} are not those of its tensors")
        if stream.tell() + numbers.size > len(data):
            raise EOFError(f"the numbers of storage {key!r} are not complete")
        stream.seek(numbers.size, 1)
    if any(numbers.start is None for numbers in storages.values()):
        raise EOFError("the numbers of a storage are not in the file")
    return content


def _nested(reading: Reading, data: bytes) -> Any:
    return _of_stream(reading, data)


# --- safetensors ----------------------------------------------------------------------------------


def _of_safetensors(reading: Reading, data: mmap.mmap) -> dict[str, Any]:
    size = int.from_bytes(data[:8], "little")
    if 8 + size > len(data):
        raise EOFError(f"a header of {size} bytes in a file of {len(data)}")
    reading.budget.require(JSON_BYTES, size, reading.where, CheckpointError)
    header = json.loads(data[8 : 8 + size])
    content: dict[str, Any] = {METADATA: header.pop(METADATA, {})}
    left = len(data) - 8 - size
    for key, entry in header.items():
        start, end = entry["data_offsets"]
        dtype, shape = _TENSOR_TYPES[entry["dtype"]], entry["shape"]
        left -= end - start
        if not 0 <= start <= end <= len(data) - 8 - size or left < 0:
            raise ValueError(f"{key!r} is outside of the file, or on other tensors")
        if math.prod(shape) * ITEM_BYTES[dtype] != end - start:
            raise ValueError(f"{key!r} does not fill its {end - start} bytes")
        storage = Storage(dtype, end - start, 8 + size + start)
        strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        content[key] = reading.tensor(storage, dtype, 0, shape, strides)
    return content
