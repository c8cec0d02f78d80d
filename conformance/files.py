"""Write packed files by hand, part by part, as FORMAT.md says: sound ones, and broken ones.

Numbers in brackets are sections of FORMAT.md. Nothing here is of apot_export.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]
_START = b'{"__metadata__":{"header_crc32":"'
_PADDING = "_padding."


# --- the container (1) ----------------------------------------------------------------------------


@dataclass
class Tensor:
    """A tensor of the container: its bytes, and what its entry says of them."""

    dtype: str
    shape: list[int]
    content: bytes


@dataclass
class Packed:
    """The parts of a packed file."""

    network: Json
    tensors: dict[str, Tensor] = field(default_factory=dict)
    """In the order of their data, without padding."""
    version: str = "2"
    provenance: Json = field(default_factory=dict)
    interface: Json | None = None
    images: list[Any] = field(default_factory=list)
    """Batches, nested lists [N][C][H][W], through which the values of the network are stated."""

    def header(self) -> tuple[Json, bytes]:
        """Return the header's object, with a checksum of the header yet to come, and the data."""
        entries: Json = {}
        data = bytearray()
        checksums = ""
        for name, tensor in self.tensors.items():
            size = len(tensor.content)
            item = 4 if tensor.dtype == "F32" else 1
            if filling := -len(data) % (64 if size >= 1 << 14 else item):
                entries[f"{_PADDING}{len(entries)}"] = _entry("U8", [filling], len(data), filling)
                data += bytes(filling)
            entries[name] = _entry(tensor.dtype, tensor.shape, len(data), size)
            checksums += crc32(tensor.content)
            data += tensor.content
        metadata = {
            "header_crc32": "0" * 8,
            "format": "apot-packed",
            "format_version": self.version,
            "network": dumps(self.network),
            "provenance": dumps(self.provenance),
            "checksums": checksums,
        }
        if self.interface is not None:
            metadata["interface"] = dumps(self.interface)
        return {"__metadata__": metadata, **entries}, bytes(data)

    def sealed(self) -> bytes:
        """Return the bytes of the file."""
        return seal(*self.header())


def _entry(dtype: str, shape: list[int], begin: int, size: int) -> Json:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, begin + size]}


def dumps(content: object) -> str:
    """Serialise without blanks."""
    return json.dumps(content, separators=(",", ":"))


def crc32(content: bytes) -> str:
    """Return a checksum as metadata have it (1.4)."""
    return f"{zlib.crc32(content):08x}"


def seal(header: Json | str, data: bytes) -> bytes:
    """Write a file with a right checksum of the header, whatever the header says (1.1, 1.4)."""
    raw = (header if isinstance(header, str) else dumps(header)).encode()
    raw += b" " * (-(8 + len(raw)) % 64)
    return seal_raw(raw, data)


def seal_raw(raw: bytes, data: bytes) -> bytes:
    """Write a file of a header that is bytes, blanks included."""
    begin, end = len(_START), len(_START) + 8
    checksum = crc32(raw[:begin] + b"0" * 8 + raw[end:]).encode()
    return struct.pack("<Q", len(raw)) + raw[:begin] + checksum + raw[end:] + data


def unseal(content: bytes) -> tuple[Json, bytes]:
    """Split a file into its header and the tensors' bytes."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


# --- the contents of tensors (3) ------------------------------------------------------------------


def pack(codes: Sequence[int], bits: int) -> bytes:
    """Write codes as a bit stream (3.1)."""
    stream = sum(code << bits * number for number, code in enumerate(codes))
    return stream.to_bytes(-(-len(codes) * bits // 8), "little")


def digits(codes: Sequence[int], used: Sequence[int]) -> bytes:
    """Write codes as digits (3.7)."""
    base = len(used)
    places = next(d for d in range(8, 0, -1) if base**d <= 1 << 8)
    return bytes(
        sum(used.index(code) * base**i for i, code in enumerate(codes[begin : begin + places]))
        for begin in range(0, len(codes), places)
    )


def entropy(codes: Sequence[int], bits: int, frequencies: Sequence[int], lanes: int) -> bytes:
    """Write entropy-coded codes (3.8): the decoder's steps backwards, from its last states."""
    m = sum(frequencies).bit_length() - 1
    start = [sum(frequencies[:code]) for code in range(len(frequencies))]
    k = 16 // max(m, bits)
    turns = -(-max(0, len(codes) - 16 * lanes // bits) // (k * lanes))
    tail = pack(codes[turns * lanes * k :], bits).ljust(2 * lanes, b"\0")
    x = [state + (1 << 16) for state in struct.unpack(f"<{lanes}H", tail)]
    words: list[int] = []
    for t in range(turns - 1, -1, -1):
        for j in range(lanes - 1, -1, -1):
            turn = codes[(t * lanes + j) * k : (t * lanes + j + 1) * k]
            if x[j] >= math.prod(frequencies[code] for code in turn) << (32 - k * m):
                words.append(x[j] & 0xFFFF)
                x[j] >>= 16
            for code in reversed(turn):
                above, below = divmod(x[j], frequencies[code])
                x[j] = (above << m) + below + start[code]
    return struct.pack(
        f"<{len(frequencies)}H{lanes}I{len(words)}H", *frequencies, *x, *reversed(words)
    )


def f32(*numbers: float) -> bytes:
    """Write F32 numbers."""
    return struct.pack(f"<{len(numbers)}f", *numbers)


# --- networks (2) ---------------------------------------------------------------------------------


def levels(book: Json) -> list[int]:
    """Return the level of every code (3.3)."""
    found = [0]
    for table in book["tables"]:
        found = [level + addend for addend in table for level in found]
    return found + [-level for level in found] if book["signed"] else found


def width(book: Json) -> int:
    """Return the bits of a code (2.2)."""
    return len(levels(book)).bit_length() - 1


class Maker:
    """Adds layers and nodes to a network, one after the other."""

    def __init__(self, image: list[int], name: str = "image") -> None:
        """Begin a network of images [C, H, W]."""
        self.network: Json = {
            "input": {"name": name, "shape": image},
            "output": name,
            "codebooks": [],
            "layers": {},
            "nodes": [],
        }
        self.parameters: list[float] = []
        self.tensors: dict[str, Tensor] = {}

    def run(self, numbers: Sequence[float]) -> list[int]:
        """Add numbers to the parameters; return their run."""
        begin = len(self.parameters)
        self.parameters += numbers
        return [begin, len(self.parameters)]

    def book(self, book: Json) -> int:
        """Return the index of a codebook."""
        books = self.network["codebooks"]
        if book not in books:
            books.append(book)
        return int(books.index(book))

    def coded(
        self,
        name: str,
        shape: list[int],
        book: Json,
        codes: Sequence[int],
        step: float = 0.5,
        **members: Any,
    ) -> str:
        """Add a coded layer, whose codes are a bit stream; return its name."""
        values = [level * step for level in levels(book)]
        if book["signed"]:  # the float's sign is that of the code, also of zeros (3.4)
            half = values[: len(values) // 2]
            values = [*half, *(-value for value in half)]
        self.network["layers"][name] = {
            "kind": "coded",
            "shape": shape,
            "codebook": self.book(book),
            "values": self.run(values),
            "step": step,
            **members,
        }
        self.octets(f"{name}.codes", pack(codes, width(book)))
        return name

    def floats(self, name: str, shape: list[int], weights: Sequence[float]) -> str:
        """Add a layer of float weights; return its name."""
        self.network["layers"][name] = {"kind": "float"}
        self.tensors[f"{name}.weight"] = Tensor("F32", shape, f32(*weights))
        return name

    def octets(self, name: str, content: bytes, shape: list[int] | None = None) -> None:
        """Add a tensor of bytes."""
        self.tensors[name] = Tensor("U8", shape or [len(content)], content)

    def node(self, name: str, operation: str, *inputs: str, **attributes: Any) -> str:
        """Add a node, which is the output until another is added; return its name."""
        stated = {"inputs": list(inputs)} if inputs else {}
        self.network["nodes"].append({"name": name, "operation": operation, **stated, **attributes})
        self.network["output"] = name
        return name

    def packed(self, images: list[Any], version: str = "2") -> Packed:
        """Return the parts of the file, F32 tensors first (1.5)."""
        tensors = dict(sorted(self.tensors.items(), key=lambda item: item[1].dtype == "U8"))
        if self.parameters:
            numbers = Tensor("F32", [len(self.parameters)], f32(*self.parameters))
            tensors = {"parameters": numbers, **tensors}
        return Packed(self.network, tensors, version, images=images)
