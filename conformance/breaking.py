"""What the invalid files of the kit are made of: small sound files, and ways to change them."""

from __future__ import annotations

import copy
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from conformance.files import Json, Maker, Packed, dumps, seal
from conformance.valid import SMALL

ABSENT = object()
"""In place of a value: no such member."""


@dataclass(frozen=True)
class Broken:
    """A file that breaks one rule."""

    rule: str
    """Its name in section 5 of FORMAT.md."""
    problem: str
    content: bytes


INVALID: dict[str, Broken] = {}
"""The files by name."""


def broken(rule: str, problem: str, content: bytes | Packed) -> None:
    """Put a file on the list, under a name made of its rule and problem."""
    words = re.sub(r"[^a-z0-9]+", "-", problem.lower()).strip("-")
    name = f"{rule}-{words}"
    assert name not in INVALID, name
    sealed = content.sealed() if isinstance(content, Packed) else content
    INVALID[name] = Broken(rule, problem, sealed)


# --- sound files ----------------------------------------------------------------------------------


def floats() -> Packed:
    """Return a file of a float layer, two scales and two biases."""
    maker = Maker([2, 1, 1])
    maker.floats("f", [2, 2, 1, 1], [4, 3, 2, 1])
    maker.node("sums", "Convolution", layer="f")
    maker.node("out", "ScaleBias", scale=maker.run([1, 2]), bias=maker.run([3, 4]))
    return maker.packed([])


def quantized() -> Packed:
    """Return a file of a quantized layer of 12 codes of 3 bits."""
    maker = Maker([3, 1, 1])
    activation = {"codebook": maker.book(SMALL), "alpha": 1.5}
    maker.coded("q", [4, 3, 1, 1], SMALL, [1, 2, 3, 4] * 3, activation=activation)
    maker.node("levels", "QuantizeActivation", layer="q")
    maker.node("sums", "Convolution", layer="q")
    maker.node("out", "ScaleBias")
    return maker.packed([])


def coded(book: Json, codes: bytes, count: int, **members: Any) -> Packed:
    """Return a file of a layer of given codes whose input stays float."""
    maker = Maker([1, 1, 1])
    maker.node("flat", "Flatten")
    maker.coded("c", [count, 1], book, [], **members)
    maker.octets("c.codes", codes)
    maker.node("out", "Linear", layer="c")
    return maker.packed([])


def planes(octets: bytes, content: bytes = b"", **members: Any) -> Packed:
    """Return a file of a multi-bit layer [2, 2, 1, 1] in groups of 2."""
    maker = Maker([2, 1, 1])
    layer = {"kind": "planes", "shape": [2, 2, 1, 1], "group_size": 2}
    if "terms" not in members:
        layer["coordinates"] = maker.run([1, 2, 4])
    maker.network["layers"]["p"] = {**layer, **members}
    if content:
        maker.octets("p.terms", content, [len(content) // 2, 2])
    maker.octets("p.planes", octets)
    maker.node("out", "Convolution", layer="p")
    return maker.packed([])


def nodes(*stated: Json, image: tuple[int, int, int] = (2, 4, 4), version: str = "2") -> Packed:
    """Return a file of nodes without weights; they are called out0, out1, ..."""
    maker = Maker(list(image))
    for number, node in enumerate(stated):
        maker.node(f"out{number}", **node)
    return maker.packed([], version)


def turned(order: list[int]) -> Json:
    """Return a node that turns axes."""
    return {"operation": "Transpose", "order": order}


def resampled(rows: list[float], columns: list[float], version: str, size: int = 1) -> Packed:
    """Return a file of a `Resample` of one image, [1, size, size]."""
    maker = Maker([1, size, size])
    stated = maker.run(rows), maker.run(columns)
    maker.node("out", "Resample", rows=stated[0], columns=stated[1])
    return maker.packed([], version)


# --- sound nodes ----------------------------------------------------------------------------------

RELU: Json = {"operation": "Relu"}
CLIP: Json = {"operation": "Clip", "minimum": 0, "maximum": 1}
FUNCTION: Json = {"operation": "Elementwise", "function": "exp"}
REDUCE: Json = {"operation": "Reduce", "function": "max", "axes": [2]}
PAD: Json = {"operation": "Pad", "before": [0, 0, 0], "after": [0, 0, 1]}
RESAMPLE: Json = {"operation": "Resample", "rows": [0, 0], "columns": [0, 0]}
SLICE: Json = {"operation": "Slice", "start": [0, 0, 0], "stop": [2, 4, 4], "step": [1, 1, 1]}
RESHAPE: Json = {"operation": "Reshape", "shape": [32]}
MAX: Json = {"operation": "MaxPool", "kernel": [2, 2], "stride": [1, 1]}
MEAN: Json = {"operation": "AveragePool", "kernel": [2, 2], "stride": [1, 1]}
UPSAMPLE: Json = {"operation": "Upsample", "scale": [2, 2]}


# --- changes --------------------------------------------------------------------------------------


def edited(parts: Packed, *changes: tuple[str, Any]) -> Packed:
    """Change members of the network, each at a path of names and indices."""
    parts = copy.deepcopy(parts)
    for path, value in changes:
        *keys, last = [int(key) if key.isdigit() else key for key in path.split(".")]
        parent: Any = parts.network
        for key in keys:
            parent = parent[key]
        if value is ABSENT:
            del parent[last]
        else:
            parent[last] = value
    return parts


def described(parts: Packed, old: str, new: str) -> bytes:
    """Change the text of the network."""
    header, data = parts.header()
    text = header["__metadata__"]["network"]
    assert text.count(old) >= 1, old
    header["__metadata__"]["network"] = text.replace(old, new, 1)
    return seal(header, data)


def with_header(parts: Packed, change: Callable[[Json], Any]) -> bytes:
    """Change the header's object."""
    header, data = parts.header()
    change(header)
    return seal(header, data)


def with_text(parts: Packed, old: str, new: str) -> bytes:
    """Change the text of the header."""
    header, data = parts.header()
    text = dumps(header)
    assert text.count(old) >= 1, old
    return seal(text.replace(old, new, 1), data)


def with_bytes(parts: Packed, name: str, *places: tuple[int, int]) -> Packed:
    """Change bytes of a tensor, whose checksum stays right."""
    parts = copy.deepcopy(parts)
    content = bytearray(parts.tensors[name].content)
    for place, value in places:
        content[place] = value
    parts.tensors[name].content = bytes(content)
    return parts


def entropy_bytes(frequencies: list[int], states: list[int], words: list[int]) -> bytes:
    """Return an entropy-coded stream of these parts (3.8)."""
    layout = f"<{len(frequencies)}H{len(states)}I{len(words)}H"
    return struct.pack(layout, *frequencies, *states, *words)
