"""Networks whose codes are stored as digits or entropy-coded, and ways to damage them."""

from __future__ import annotations

import json
import zlib
from typing import Any

import numpy as np

from apot_export.artifacts.packed import packed_file_bytes
from apot_export.network import CodedLayer, CodedNetwork, Convolution, FloatLayer, Network, Node
from apot_export.network.bitpack import Codes, pack
from apot_export.network.codebook import Codebook, uniform
from tests.support.small_networks import Json, seal, unseal

MALFORMED_STORAGES: list[tuple[str, object, str]] = [
    ("a", None, "a.codes"),
    ("a", "entropy", "an object"),
    ("a", {}, "an object of entropy"),
    ("a", {"huffman": [8, 7]}, "an object of entropy"),
    ("a", {"entropy": [8, 7], "digits": [0, 1]}, "an object of digits"),
    ("a", {"entropy": [3, 7]}, "from 4 to 15"),
    ("a", {"entropy": [16, 7]}, "from 4 to 15"),
    ("a", {"entropy": [8, 0]}, "from 1"),
    ("a", {"entropy": [8]}, "unpack"),
    ("a", {"entropy": [8, 1 << 30]}, "1073741824 lanes"),
    ("a", {"entropy": [9, 7]}, "sum to 2^9"),
    ("a", {"digits": [0, 1, 3]}, "a.codes"),
    ("ternary", {"digits": [0, 1]}, "ternary.codes"),
    ("ternary", {"digits": [0, 1, 4]}, "from 0 to 3"),
    ("ternary", {"digits": [0, 3, 1]}, "ascending"),
    ("ternary", {"digits": [3]}, "ascending"),
]
"""A layer of the example, a storage that its bytes or the format forbid, and the reason."""


def skewed(bits: int, size: int, seed: int = 0) -> Codes:
    """Draw codes as weights have them: a rounded normal distribution, sign above magnitude."""
    numbers = np.random.default_rng(seed).normal(scale=0.3, size=size) * (1 << bits) / 2
    magnitudes = np.minimum(np.abs(np.rint(numbers)), (1 << bits) // 2 - 1).astype(int)
    return as_codes(magnitudes | ((numbers < 0) << (bits - 1)), bits)


def as_codes(numbers: np.ndarray[Any, np.dtype[Any]], bits: int) -> Codes:
    return numbers.astype(np.uint8) if bits <= 8 else numbers.astype(np.uint16)


def stored_network(**codes: np.ndarray[Any, np.dtype[Any]]) -> CodedNetwork:
    """Build a network of one convolution 1 x 1 for every named array of 4-bit or 2-bit codes."""
    layers: dict[str, Any] = {}
    nodes = []
    before = "image"
    for name, array in codes.items():
        bits = 2 if "ternary" in name else 4
        book: Codebook = uniform(bits - 1, signed=True)
        layers[name] = CodedLayer(
            name=name,
            shape=(array.size // 40, 40, 1, 1),
            packed=pack(array, bits),
            codebook=book,
            step=0.5,
            values=(book.levels * 0.5).astype(np.float32),
        )
        nodes.append(Node(name=f"{name}.out", inputs=("image",), operation=Convolution(layer=name)))
        before = f"{name}.out"
    layers["float"] = FloatLayer(name="float", weight=np.full((2, 40, 1, 1), 0.5, dtype="<f4"))
    nodes.append(Node(name="float.out", inputs=("image",), operation=Convolution(layer="float")))
    return Network[Any](
        nodes=tuple(nodes), layers=layers, input="image", input_shape=(40, 2, 2), output=before
    )


def example() -> CodedNetwork:
    ternary = np.random.default_rng(5).choice([0, 1, 3], size=8000).astype(np.uint8)
    return stored_network(a=skewed(4, 8000), b=skewed(4, 12000, 1), ternary=ternary)


def with_storage(storage: object, layer: str) -> bytes:
    """Return the example's file, whose `a` is entropy-coded or whose `ternary` are digits."""
    header, data = unseal(packed_file_bytes(example(), {}, compress=layer == "a"))
    described = json.loads(header["__metadata__"]["network"])
    described["layers"][layer]["storage"] = storage
    header["__metadata__"]["network"] = json.dumps(described)
    return seal(header, data)


def resealed(content: bytes, name: str, change: dict[int, int]) -> bytes:
    """Change bytes of a tensor and put the checksum right."""
    header, data = unseal(content)
    begin, end = header[name]["data_offsets"]
    damaged = bytearray(data)
    for place, value in change.items():
        damaged[begin + place % (end - begin)] = value
    names = [key for key in header if not key.startswith(("_padding.", "__metadata__"))]
    sums: Json = header["__metadata__"]
    at = 8 * names.index(name)
    crc = f"{zlib.crc32(damaged[begin:end]):08x}"
    sums["checksums"] = sums["checksums"][:at] + crc + sums["checksums"][at + 8 :]
    return seal(header, bytes(damaged))
