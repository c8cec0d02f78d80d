"""Packed files of small networks, and ways to damage and re-checksum them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from apot_export.artifacts.packed import PackedNetwork, load_packed
from apot_export.artifacts.packed.writing import packed_file_bytes
from apot_export.errors import PackedFileError
from apot_export.network import CodedLayer, CodedNetwork, Convolution, FloatLayer, Layer
from apot_export.network.bitpack import Codes, pack
from apot_export.network.codebook import uniform
from conformance.files import Json, crc32, seal, unseal
from tests.support.networks import network_of, small_network

if TYPE_CHECKING:
    from pathlib import Path


def _shuffled(seed: int, names: list[str]) -> list[str]:
    return random.Random(seed).sample(names, len(names))  # noqa: S311 - a test


PROVENANCE = {"tool": "test", "checkpoint": "große_daten.pth", "bits": 4}


@cache
def packed() -> bytes:
    """Return the packed file of the small network."""
    return packed_file_bytes(small_network(), PROVENANCE)


def resealed(content: bytes, name: str, change: dict[int, int]) -> bytes:
    """Change bytes of a tensor and correct its checksum."""
    header, data = unseal(content)
    begin, end = header[name]["data_offsets"]
    damaged = bytearray(data)
    for place, value in change.items():
        damaged[begin + place % (end - begin)] = value
    names = [key for key in header if not key.startswith(("_padding.", "__metadata__"))]
    sums: Json = header["__metadata__"]
    at = 8 * names.index(name)
    crc = crc32(bytes(damaged[begin:end]))
    sums["checksums"] = sums["checksums"][:at] + crc + sums["checksums"][at + 8 :]
    return seal(header, bytes(damaged))


def load(folder: Path, content: bytes) -> PackedNetwork:
    path = folder / "model.apot.safetensors"
    path.write_bytes(content)
    return load_packed(path).check()


def refusal(folder: Path, content: bytes) -> str:
    """Return the error message with which a file is refused."""
    with pytest.raises(PackedFileError) as caught:
        load(folder, content)
    assert caught.value.where is not None
    assert caught.value.where.startswith(str(folder))
    return str(caught.value)


# --- other ways to write the same network ---------------------------------------------------------

Order = Callable[[list[str]], list[str]]
ORDERS: dict[str, Order] = {
    "sorted": sorted,
    "reversed": lambda names: names[::-1],
    # JavaScript's: names that are numbers come first.
    "numbers first": lambda names: sorted(names, key=lambda name: not name.isdigit()),
    **{f"shuffled {seed}": partial(_shuffled, seed) for seed in range(3)},
}
"""Orders of the members of JSON objects."""


def reordered(content: bytes, order: Order) -> bytes:
    """Order the members of all JSON objects of a file anew; what must be first stays first."""
    header, data = unseal(content)
    metadata = header.pop("__metadata__")
    checksum = {"header_crc32": metadata.pop("header_crc32")}
    for name in ("network", "provenance"):
        metadata[name] = json.dumps(_reordered(json.loads(metadata[name]), order))
    metadata = {**checksum, **_reordered(metadata, order)}
    return seal({"__metadata__": metadata, **_reordered(header, order)}, data)


def _reordered(value: Any, order: Order) -> Any:
    if isinstance(value, list):
        return [_reordered(item, order) for item in value]
    if isinstance(value, dict):
        return {name: _reordered(value[name], order) for name in order(list(value))}
    return value


def as_version_1(content: bytes) -> bytes:
    """Write a file as version 1 had it, which states no runs of `parameters`."""
    header, data = unseal(content)
    described = json.loads(header["__metadata__"]["network"])
    for layer in described["layers"].values():
        layer.pop("values", None)
        layer.pop("coordinates", None)
    for node in described["nodes"]:
        for part in ("scale", "bias"):
            if node["operation"] == "ScaleBias" and isinstance(node.get(part), list):
                begin, end = node[part]
                node[part] = [end - begin]
    header["__metadata__"].update(format_version="1", network=json.dumps(described))
    return seal(header, data)


# --- codes stored as digits or entropy-coded ------------------------------------------------------


def skewed(bits: int, size: int, seed: int = 0) -> Codes:
    """Draw codes as weights have them: a rounded normal distribution, sign above magnitude."""
    numbers = np.random.default_rng(seed).normal(scale=0.3, size=size) * (1 << bits) / 2
    magnitudes = np.minimum(np.abs(np.rint(numbers)), (1 << bits) // 2 - 1).astype(int)
    return as_codes(magnitudes | ((numbers < 0) << (bits - 1)), bits)


def as_codes(numbers: np.ndarray[Any, np.dtype[Any]], bits: int) -> Codes:
    return numbers.astype(np.uint8) if bits <= 8 else numbers.astype(np.uint16)


def stored_network(**codes: np.ndarray[Any, np.dtype[Any]]) -> CodedNetwork:
    """Build a network of one convolution 1 x 1 for every named array of 4-bit or 2-bit codes.

    The last of them computes the output; a float layer stands after it.
    """
    layers: list[Layer] = []
    for name, array in codes.items():
        bits = 2 if "ternary" in name else 4
        book = uniform(bits - 1, signed=True)
        layers.append(
            CodedLayer(
                name=name,
                shape=(array.size // 40, 40, 1, 1),
                stored=pack(array, bits),
                codebook=book,
                step=0.5,
                values=(book.levels * 0.5).astype(np.float32),
            )
        )
    layers.append(FloatLayer(name="float", stored=np.full((2, 40, 1, 1), 0.5, dtype="<f4")))
    names = [layer.name for layer in layers]
    steps = [(f"{name}.out", Convolution(layer=name), "image") for name in names]
    return replace(network_of(layers, steps, (40, 2, 2)), output=f"{names[-2]}.out")


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
