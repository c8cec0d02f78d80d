"""The containers of checkpoints: PyTorch's two formats, plain pickles, and safetensors.

Numbers stay in the file: the optimizer's state, often twice the weights, never becomes memory.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import mmap
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO

from apot_export.budgets import JSON_BYTES
from apot_export.errors import CheckpointError
from apot_export.original._data import ITEM_BYTES, Reading, Storage, require_axes
from apot_export.original._pickles import Storages, unpickle

METADATA = "__metadata__"
"""Key of the texts that a safetensors file keeps beside its tensors."""
ARCHIVE_HEAD = b"PK"
LEGACY_HEAD = b"\x8a\nl\xfc\x9cF"
"""The first bytes of PyTorch's magic number, in the first 16 of its files before 1.6."""
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""What PyTorch's format before 1.6 begins with, pickled."""
_PIECE = 1 << 20
_LOCAL_HEADER, _LOCAL_MAGIC = 30, b"PK\x03\x04"
"""Bytes of a zip entry's own header before its name and extra field, and the first ones."""
_ENCRYPTED = 1
_TENSOR_TYPES = {
    "BF16": "bfloat16",
    "BOOL": "bool",
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
}
"""PyTorch's types of numbers by their names in safetensors files."""


def content_of(reading: Reading, file: BinaryIO, suffix: str) -> Any:
    """Return what a checkpoint's file holds, as `_data` has it, without running anything of it.

    Args:
        reading: What is found and used up on the way.
        file: The file, open.
        suffix: That of its name.

    Raises CheckpointError, and whatever else damage leads to.
    """
    if not reading.budget.file_bytes:
        raise EOFError("Ran out of input")
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:2] == ARCHIVE_HEAD:
            return _of_archive(reading, file, data)
        return (_of_safetensors if suffix == ".safetensors" else _of_stream)(reading, data)


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
    return unpickle(reading, io.BytesIO(bytes_of(name)), storage, _of_stream)


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
        return unpickle(reading, stream, found, _of_stream)

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
        require_axes(shape)
        if math.prod(shape) * ITEM_BYTES[dtype] != end - start:
            raise ValueError(f"{key!r} does not fill its {end - start} bytes")
        storage = Storage(dtype, end - start, 8 + size + start)
        strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        content[key] = reading.tensor(storage, dtype, 0, shape, strides)
    return content
