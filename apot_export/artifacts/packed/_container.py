"""The container of FORMAT.md, section 1: safetensors with aligned tensors and checksums."""

from __future__ import annotations

import json
import math
import mmap
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from apot_export import budgets
from apot_export.artifacts import strict_json
from apot_export.budgets import Budget
from apot_export.errors import PackedFileError

FORMAT = "apot-packed"
FORMAT_VERSION = 3
"""The newest; version 1 is read, too."""
ELEMENTARY_VERSION = 2
"""What is written where a network has no operation that version 3 added."""
_READ_VERSIONS = ("1", "2", "3")
ALIGNMENT = 64
_ALIGNED_BYTES = 16384
"""Smallest tensor that begins at a multiple of the alignment."""
_LENGTH_BYTES = 8
_MAXIMUM_HEADER_BYTES = 64 << 20
_HEADER_START = b'{"__metadata__":{"header_crc32":"'
_CRC_DIGITS = 8
_UNKNOWN_CRC = b"0" * _CRC_DIGITS
_PADDING_PREFIX = "_padding."
_MOST_AXES = 4
_DTYPES: dict[str, np.dtype[Any]] = {"U8": np.dtype("u1"), "F32": np.dtype("<f4")}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

T = TypeVar("T")


# --- writing --------------------------------------------------------------------------------------


def positions(tensors: Mapping[str, NDArray[Any]]) -> dict[str, int]:
    """Return where every tensor begins in the data of a container that holds them in this order."""
    begins = {}
    position = 0
    for name, tensor in tensors.items():
        position += -position % _alignment(tensor.dtype, tensor.nbytes)
        begins[name] = position
        position += tensor.nbytes
    return begins


def write(metadata: Mapping[str, str], tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """Serialise metadata and tensors, in this order: the same content gives the same bytes.

    Raises:
        ValueError: A tensor has a type, name or size that the container does not store.
    """
    entries: dict[str, dict[str, Any]] = {}
    checksums, data = "", bytearray()
    for name, begin in positions(tensors).items():
        tensor = tensors[name]
        if filling := begin - len(data):
            # Safetensors forbids holes, so what aligns the next tensor is a tensor itself.
            entries[f"{_PADDING_PREFIX}{len(entries)}"] = _entry("U8", (filling,), data, filling)
            data += bytes(filling)
        dtype = tensor.dtype.newbyteorder("<")
        if dtype not in _DTYPE_NAMES or not tensor.size or name.startswith(_PADDING_PREFIX):
            raise ValueError(f"{name}: {tensor.dtype} {list(tensor.shape)} is not stored")
        content = np.ascontiguousarray(tensor, dtype=dtype).tobytes()
        entries[name] = _entry(_DTYPE_NAMES[dtype], tensor.shape, data, len(content))
        checksums += f"{zlib.crc32(content):08x}"
        data += content
    stored = {
        "header_crc32": _UNKNOWN_CRC.decode(),
        "format": FORMAT,
        "format_version": str(ELEMENTARY_VERSION),
        **metadata,
        "checksums": checksums,
    }
    header = strict_json.dumps({"__metadata__": stored, **entries}).encode("ascii")
    header += b" " * (-(_LENGTH_BYTES + len(header)) % ALIGNMENT)
    checksum = f"{zlib.crc32(header):08x}".encode()
    start = len(_HEADER_START)
    header = header[:start] + checksum + header[start + _CRC_DIGITS :]
    return b"".join([len(header).to_bytes(_LENGTH_BYTES, "little"), header, data])


def _alignment(dtype: np.dtype[Any], size: int) -> int:
    """Return what a tensor's position in the data must be a multiple of."""
    return ALIGNMENT if size >= _ALIGNED_BYTES else dtype.itemsize


def _entry(dtype: str, shape: tuple[int, ...], before: bytearray, size: int) -> dict[str, Any]:
    offsets = [len(before), len(before) + size]
    return {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}


# --- reading --------------------------------------------------------------------------------------


def tensor_bytes(content: bytes) -> dict[str, int]:
    """Return the bytes of every tensor of a container that `write` made, by name."""
    length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    entries = strict_json.loads(content[_LENGTH_BYTES : _LENGTH_BYTES + length].decode("ascii"))
    del entries["__metadata__"]
    offsets = {name: entry["data_offsets"] for name, entry in entries.items()}
    return {name: end - begin for name, (begin, end) in offsets.items()}


class StoredTensors(Mapping[str, NDArray[Any]]):
    """Read-only views of the tensors of a mapped file, in the order of their data.

    Taking a tensor reads all of it once, to compare it with its checksum, and checks that its
    floats are finite. Until then nothing of it is read.

    Raises:
        PackedFileError: The tensor that is taken is damaged.
    """

    def __init__(
        self,
        path: Path,
        views: Mapping[str, NDArray[Any]],
        checksums: Iterable[str],
        padding: Mapping[str, memoryview],
        budget: Budget,
    ) -> None:
        """Hold views of a file, their CRC-32 in hexadecimal digits, and what lies between."""
        self._path, self._views, self._padding = path, views, padding
        self._budget = budget
        self._unchecked = dict(zip(views, checksums, strict=True))

    def __len__(self) -> int:
        return len(self._views)

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __getitem__(self, name: str) -> NDArray[Any]:
        view = self._views[name]
        stated = self._unchecked.get(name)
        if stated is not None:
            self._check(name, view, stated)
            self._unchecked.pop(name, None)  # another thread may have been first
        return view

    def of_type(self, name: str, dtype: str) -> NDArray[Any]:
        """Return a tensor, checked; raise `ValueError` where it is not of the stated type."""
        self.unread(name, dtype)
        return self[name]

    def unread(self, name: str, dtype: str) -> NDArray[Any]:
        """Return a tensor of the stated type without reading its content, for its shape."""
        view = self._views[name]
        if view.dtype != np.dtype(dtype):
            raise unexpected(name, view)
        return view

    def deferred(self, name: str, make: Callable[[NDArray[Any]], T]) -> Callable[[], T]:
        """Return a function that reads a tensor and makes something of it.

        Where `make` raises `ValueError`, the function raises `PackedFileError`.
        """

        def read() -> T:
            try:
                return make(self[name])
            except ValueError as error:
                raise malformed(f"{self._path}: {name}", str(error)) from error

        return read

    def require(self, kind: budgets.Kind, asked: int, where: str) -> None:
        """Raise `PackedFileError` where a part of the file asks for more than its size allows."""
        self._budget.require(kind, asked, f"{self._path}: {where}", PackedFileError)

    def check_all(self) -> None:
        """Read everything; raise `PackedFileError` where a tensor is damaged or padding not 0."""
        for name, content in self._padding.items():
            if any(content):
                raise _damaged(self._path, f"zeros in {name}", bytes(content).hex())
        for name in self:
            self[name]

    def _check(self, name: str, view: NDArray[Any], stated: str) -> None:
        found, where = f"{zlib.crc32(view.data):08x}", f"{self._path}: {name}"
        if found != stated:
            raise PackedFileError(
                "A tensor of the packed file is damaged.",
                where=where,
                expected=f"CRC-32 {stated}",
                got=f"CRC-32 {found}",
                fix="copy the file again, or convert the checkpoint again",
            )
        if view.dtype != np.uint8 and not np.isfinite(view).all():
            raise malformed(where, "values that are not finite")


def malformed(where: str, got: str) -> PackedFileError:
    """Return the error of content whose checksum is right and that breaks a rule of the format."""
    return PackedFileError(
        "The packed file's network is not well formed.",
        where=where,
        expected="a network as FORMAT.md describes",
        got=got,
    )


def unexpected(name: str, tensor: NDArray[Any]) -> ValueError:
    """Return the error of a tensor of another type or shape than its layer needs."""
    return ValueError(f"{name}: {tensor.dtype} {list(tensor.shape)} does not fit the network")


def is_packed(path: Path) -> bool:
    """Tell whether a file begins as a packed file does; another safetensors file does not.

    A file that cannot be read counts as one, whose reader says why.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_LENGTH_BYTES + len(_HEADER_START))[_LENGTH_BYTES:]
    except (OSError, ValueError):
        return True
    return _HEADER_START.startswith(start)


def read(path: Path) -> tuple[dict[str, str], StoredTensors]:
    """Map a file and check its header and layout; each tensor's content is checked on first use.

    Returns:
        Metadata strings, and tensors that are read-only views of the mapped file.

    Raises:
        PackedFileError: The file is missing, truncated, damaged or of another format.
    """
    try:
        with path.open("rb") as file:
            if path.stat().st_size < _LENGTH_BYTES:
                raise _damaged(path, "at least 8 bytes", f"{path.stat().st_size} bytes")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise PackedFileError(
            "The packed file cannot be opened.", where=str(path), got=str(error)
        ) from error
    view = memoryview(mapped)
    start = bytes(view[_LENGTH_BYTES : _LENGTH_BYTES + len(_HEADER_START)])
    if not _HEADER_START.startswith(start):
        raise PackedFileError(
            "The file is not a packed network.",
            where=str(path),
            expected="a file that apot-export convert wrote (*.apot.safetensors)",
            got=repr(start[:24]),
        )
    length = int.from_bytes(view[:_LENGTH_BYTES], "little")
    if length > _MAXIMUM_HEADER_BYTES or _LENGTH_BYTES + length > len(view):
        raise _damaged(path, f"a header of {length} bytes", f"{len(view)} bytes in all")
    if (_LENGTH_BYTES + length) % ALIGNMENT:
        raise _damaged(path, f"data at a multiple of {ALIGNMENT}", str(_LENGTH_BYTES + length))
    budget, header = Budget(len(view)), view[_LENGTH_BYTES : _LENGTH_BYTES + length]
    budget.require(budgets.JSON_BYTES, length, f"{path}: header", PackedFileError)
    entries = _checked_header(path, bytes(header), budget)
    metadata = entries.pop("__metadata__")
    views, padding = _views(path, entries, view[_LENGTH_BYTES + length :])
    digits = metadata.get("checksums", "")
    if len(digits) != len(views) * _CRC_DIGITS:
        expected = f"a checksum for every tensor: {len(views)} x 8 digits"
        raise _damaged(path, expected, f"{len(digits)} digits")
    checksums = (digits[i : i + _CRC_DIGITS] for i in range(0, len(digits), _CRC_DIGITS))
    return metadata, StoredTensors(path, views, checksums, padding, budget)


def _checked_header(path: Path, header: bytes, budget: Budget) -> dict[str, Any]:
    start = len(_HEADER_START)
    stated = header[start : start + _CRC_DIGITS].decode("ascii", "replace")
    blank = header[:start] + _UNKNOWN_CRC + header[start + _CRC_DIGITS :]
    found = f"{zlib.crc32(blank):08x}"
    if stated != found:
        raise _damaged(path, f"header CRC-32 {stated}", f"CRC-32 {found}")
    if not header.rstrip(b" ").endswith(b"}"):
        raise _damaged(path, "an object and blanks as the header", f"{header[-1:]!r} at its end")
    strict_json.require_modest(budget, header, f"{path}: header", PackedFileError)
    try:
        entries = strict_json.mapping("header", strict_json.loads(header.decode("ascii")))
        json.dumps(entries, ensure_ascii=False).encode()  # refuses surrogates without a partner
        metadata = strict_json.mapping("__metadata__", entries["__metadata__"])
        for name, content in metadata.items():
            strict_json.text(name, content)
        identity = (metadata["format"], metadata["format_version"])
    except (ValueError, KeyError) as error:
        raise _damaged(path, "a header as FORMAT.md describes", str(error)) from error
    if identity[0] != FORMAT or identity[1] not in _READ_VERSIONS:
        raise PackedFileError(
            "The packed file has a format or version that this program does not read.",
            where=str(path),
            expected=f"{FORMAT} version {' or '.join(_READ_VERSIONS)}",
            got=f"{identity[0]} version {identity[1]}",
            fix="read it with the apot-export version that wrote it, or convert again",
        )
    return entries


def _views(
    path: Path, entries: dict[str, Any], data: memoryview
) -> tuple[dict[str, NDArray[Any]], dict[str, memoryview]]:
    """Check that the entries tile the data exactly; return tensors and padding, none of it read."""
    tensors: dict[str, NDArray[Any]] = {}
    padding: dict[str, memoryview] = {}
    position = 0
    try:
        described = [_tensor(name, entry, len(data)) for name, entry in entries.items()]
    except (KeyError, ValueError) as error:
        raise _damaged(path, "tensor entries as in safetensors", str(error)) from error
    for begin, end, name, dtype, shape in sorted(described, key=lambda tensor: tensor[:2]):
        size = math.prod(shape) * dtype.itemsize
        if begin != position or end - begin != size:
            raise _damaged(path, f"{name} at byte {position}", f"{begin} to {end}, {shape}")
        position = end
        if not name.startswith(_PADDING_PREFIX):
            multiple = _alignment(dtype, size)
            if begin % multiple:
                raise _damaged(path, f"{name} at a multiple of {multiple}", str(begin))
            tensors[name] = np.frombuffer(data[begin:end], dtype=dtype).reshape(shape)
        elif size >= ALIGNMENT or dtype != _DTYPES["U8"]:
            raise _damaged(path, f"less than {ALIGNMENT} bytes in {name}", f"{size} of {dtype}")
        else:
            padding[name] = data[begin:end]
    if position != len(data):
        raise _damaged(path, f"{position} bytes of tensors", f"{len(data)} bytes")
    return tensors, padding


def _tensor(
    name: str, entry: Any, size: int
) -> tuple[int, int, str, np.dtype[Any], tuple[int, ...]]:
    """Return begin, end, name, dtype and shape of a tensor of the header."""
    kind, extents, offsets = strict_json.fields(name, entry, "dtype", "shape", "data_offsets")
    begin, end = strict_json.integers(name, offsets, most=size)
    dtype = _DTYPES[strict_json.text(name, kind)]
    shape = strict_json.integers(name, extents, least=1)
    if len(shape) > _MOST_AXES:
        raise ValueError(f"{name}: a shape of {len(shape)} axes")
    return begin, end, name, dtype, shape


def _damaged(path: Path, expected: str, got: str) -> PackedFileError:
    """Return the error of a file that differs from what its writer left."""
    return PackedFileError(
        "The packed file is truncated or damaged.",
        where=str(path),
        expected=expected,
        got=got,
        fix="copy the file again, or convert the checkpoint again",
    )
