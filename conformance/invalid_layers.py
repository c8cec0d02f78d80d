"""The invalid files of the kit: codebooks, layers and how their codes are stored.

Every file breaks one rule of section 5 of FORMAT.md, and keeps all others as far as can be.
"""

from __future__ import annotations

import copy
from typing import Any

from conformance.breaking import (
    ABSENT,
    broken,
    coded,
    edited,
    entropy_bytes,
    floats,
    planes,
    quantized,
    with_bytes,
)
from conformance.files import Tensor, f32, pack
from conformance.invalid import INVALID
from conformance.valid import SMALL, WEIGHTS, uniform

__all__ = ["INVALID"]


def _codebooks() -> None:
    sound, book = quantized(), "codebooks.0"
    for table in ([0, 1, 2],):
        broken("B1", f"a table of length {len(table)}", edited(sound, (f"{book}.tables", [table])))
    for entry in (6, -3):
        broken("B2", f"an addend of {entry}", edited(sound, (f"{book}.tables", [[0, 1, 2, entry]])))
    high = [[0, 1 << 23], [0, 1 << 23]]
    broken("B3", "levels of 2^24", edited(sound, (f"{book}.tables", high)))
    broken("B4", "17 bits", edited(sound, (f"{book}.tables", [[0, 1]] * 16)))
    none = [(f"{book}.tables", []), (f"{book}.signed", False)]
    broken("B4", "no bits", edited(sound, *none))
    for denominator in (0, (1 << 23) + 1):
        changed = edited(sound, (f"{book}.denominator", denominator))
        broken("B5", f"a denominator of {denominator}", changed)


def _quantizers() -> None:
    alpha = "layers.q.activation.alpha"
    for value in (0, -1.5, 1e39):
        broken("Q1", f"a threshold of {value}", edited(quantized(), (alpha, value)))
    broken("Q2", "2I over alpha is infinite", edited(quantized(), (alpha, 1e-44)))
    low = {"tables": [[0, -(1 << 23)], [0, -1]], "denominator": 1, "signed": False}
    deep = edited(quantized(), ("layers.q.activation.codebook", 1))
    deep.network["codebooks"].append(low)
    broken("Q3", "levels below -2^23", deep)
    for steps in (0, (1 << 23) + 1):
        changed = edited(quantized())
        changed.network["layers"]["q"]["activation"]["input_denominator"] = steps
        broken("Q4", f"input steps of {steps}", changed)


# --- layers ---------------------------------------------------------------------------------------


def _layers() -> None:
    for kind in ("sparse", 1):
        broken("L1", f"the kind {kind}", edited(quantized(), ("layers.q.kind", kind)))
    for shape in ([12], [4, 3, 1], []):
        name = "x".join(map(str, shape)) or "none"
        broken("L2", f"a coded shape of {name}", edited(quantized(), ("layers.q.shape", shape)))
    broken("L2", "an extent of 0", edited(quantized(), ("layers.q.shape", [4, 3, 1, 0])))
    broken("L2", "planes of three axes", edited(_planes(), ("layers.p.shape", [2, 2, 1])))
    for problem, used in (("float weights", True), ("unused weights", False)):
        three = floats()
        three.tensors["f.weight"].shape = [2, 2, 1]
        if not used:
            three.network["nodes"][:1] = []
        broken("L2", f"{problem} of three axes", three)
    broken("L3", "weights without a codebook", edited(quantized(), ("layers.q.codebook", 1)))
    broken(
        "L3", "inputs without a codebook", edited(quantized(), ("layers.q.activation.codebook", 1))
    )
    for parts, name in (
        (floats(), "f.weight"),
        (quantized(), "q.codes"),
        (_planes(), "p.planes"),
        (_planes_of_terms(), "p.terms"),
    ):
        missing = copy.deepcopy(parts)
        del missing.tensors[name]
        broken("L4", f"no {name}", missing)
        other = copy.deepcopy(parts)
        tensor = other.tensors[name]
        if tensor.dtype == "F32":
            tensor.dtype, tensor.shape = "U8", [*tensor.shape[:-1], 4 * tensor.shape[-1]]
        else:
            size = -(-len(tensor.content) // 4)
            tensor.dtype, tensor.shape = "F32", [size]
            tensor.content = bytes(4 * size)
        broken("L4", f"{name} is {tensor.dtype}", other)
    axes = quantized()
    axes.tensors["q.codes"].shape = [1, len(axes.tensors["q.codes"].content)]
    broken("L4", "codes of two axes", axes)
    axes = _planes()
    axes.tensors["p.planes"].shape = [1, len(axes.tensors["p.planes"].content)]
    broken("L4", "planes of two axes", axes)


def _codes() -> None:
    broken("L5", "more weights than codes", edited(quantized(), ("layers.q.shape", [5, 3, 1, 1])))
    broken("L5", "fewer weights than codes", edited(quantized(), ("layers.q.shape", [2, 3, 1, 1])))
    broken("L6", "a bit after the last code", with_bytes(quantized(), "q.codes", (4, 0x40)))
    left = quantized()
    left.tensors["q.weight"] = Tensor("F32", [1], f32(1))
    broken("L7", "a tensor of another kind", left)
    left = quantized()
    left.tensors["x"] = Tensor("U8", [1], b"\0")
    broken("L7", "a tensor of no layer", left)
    left = coded(SMALL, pack([1], 3), 1)
    del left.network["layers"]["c"], left.network["nodes"][1]
    left.network["output"] = "flat"
    del left.tensors["parameters"]
    broken("L7", "codes of no layer", left)
    first = quantized()
    first.tensors = {"integer": Tensor("U8", [4], b"APIN"), **first.tensors}
    broken("L8", "integer before other tensors", first)
    last = quantized()
    last.tensors["integer"] = Tensor("F32", [1], f32(1))
    broken("L8", "integer is F32", last)
    last = quantized()
    last.tensors["integer"] = Tensor("U8", [2, 2], b"APIN")
    broken("L8", "integer of two axes", last)


def _planes() -> Any:
    return planes(pack([2, 1], 3) + pack([1, 0, 1, 1, 0, 0], 1))


def _planes_of_terms() -> Any:
    octets = pack([2, 1], 3) + pack([1, 0, 1, 1, 0, 0], 1)
    return planes(octets, bytes([64, 0, 63, 1, 0xC0, 0]), terms=2)


def _sign_planes() -> None:
    broken("P1", "groups of 3 of 4 weights", edited(_planes(), ("layers.p.group_size", 3)))
    broken("P1", "groups of 8 of 4 weights", edited(_planes(), ("layers.p.group_size", 8)))
    changes = [("layers.p.shape", [2, 2]), ("layers.p.position_major", True)]
    flat = [("nodes.0.operation", "Flatten"), ("nodes.0.layer", ABSENT)]
    broken("P2", "a matrix with positions", edited(_planes_stated(), *changes, *flat))
    cut = _planes()
    for problem, content in (
        ("a byte too few", cut.tensors["p.planes"].content[:-1]),
        ("a byte too many", cut.tensors["p.planes"].content + b"\0"),
    ):
        parts = _planes()
        parts.tensors["p.planes"] = Tensor("U8", [len(content)], content)
        broken("P3", problem, parts)
    wide = edited(_planes_stated(), ("layers.p.count_bits", 8), ("layers.p.group_size", 1))
    wide.tensors["p.planes"] = Tensor("U8", [3], bytes([1, 1, 1]))
    broken("P3", "counts cut", wide)
    broken("P4", "a bit after the counts", with_bytes(_planes(), "p.planes", (0, 0x40 | 0b001010)))
    broken("P4", "a bit after the signs", with_bytes(_planes(), "p.planes", (1, 0x40)))
    both = edited(_planes_of_terms())
    both.network["layers"]["p"]["coordinates"] = [0, 0]
    broken("P5", "terms and coordinates", both)
    broken("P5", "neither", edited(_planes(), ("layers.p.coordinates", None)))
    broken("P6", "another number of terms", edited(_planes_of_terms(), ("layers.p.terms", 3)))
    fewer = _planes_of_terms()
    fewer.tensors["p.terms"] = Tensor("U8", [2, 2], bytes([64, 0, 63, 1]))
    broken("P6", "terms of fewer bases", fewer)
    flat_terms = _planes_of_terms()
    flat_terms.tensors["p.terms"].shape = [6]
    broken("P6", "terms of one axis", flat_terms)
    none = planes(pack([0, 0], 3), bytes([64, 0]), terms=2)
    broken("P6", "terms without bases", none)


def _planes_stated() -> Any:
    parts = _planes()
    parts.network["layers"]["p"].update(position_major=False, count_bits=3)
    return parts


# --- storages -------------------------------------------------------------------------------------


def _storages() -> None:
    two = uniform(1, signed=True)
    stream = bytes([75, 1])  # the codes 0 1 3 3 0 1 of section 3.7

    def stored(storage: Any, content: bytes = stream, count: int = 6) -> Any:
        return coded(two, content, count, storage=storage)

    for problem, storage in (
        ("unknown", {"huffman": [0, 1, 3]}),
        ("two", {"digits": [0, 1, 3], "entropy": [5, 2]}),
        ("text", "digits"),
        ("entropy of one number", {"entropy": [5]}),
    ):
        broken("S1", f"storage {problem}", stored(storage))
    for problem, used in (
        ("falling", [0, 3, 1]),
        ("twice the same", [0, 1, 1]),
        ("a code of 3 bits", [0, 1, 4]),
        ("one", [3]),
    ):
        broken("S2", f"digits {problem}", stored({"digits": used}))
    many = coded(uniform(4, signed=True), bytes(6), 6, storage={"digits": list(range(17))})
    broken("S2", "17 digits", many)
    three = {"digits": [0, 1, 3]}
    broken("S3", "digits of fewer codes", stored(three, count=5))
    broken("S3", "digits of more codes", stored(three, count=11))
    broken("S4", "a byte of 3^5", stored(three, bytes([243, 1])))
    broken("S5", "a digit after the last code", stored(three, bytes([75, 1 + 3])))
    _entropy_coded()


def _entropy_coded() -> None:
    one, two, eight = WEIGHTS["sign-alone"], uniform(1, signed=True), uniform(7, signed=True)

    def stored(book: Any, m: Any, lanes: Any, content: bytes, count: int) -> Any:
        return coded(book, content, count, storage={"entropy": [m, lanes]})

    sound, many = [8, 4, 2, 2], [1 << 16] * 40
    for m in (3, 16):
        content = entropy_bytes([1 << min(m, 15), (1 << m) - (1 << min(m, 15))], [1 << 16], [])
        broken("S6", f"m of {m}", stored(one, m, 1, content, 8))
    broken("S6", "no lanes", stored(two, 4, 0, entropy_bytes(sound, [], []), 8))
    broken("S7", "a table cut", stored(two, 4, 1, entropy_bytes(sound[:3], [], []), 8))
    broken("S7", "states cut", stored(two, 4, 3, entropy_bytes(sound, [1 << 16] * 2, []), 8))
    half = entropy_bytes(sound, [1 << 16], []) + b"\0"
    broken("S7", "half a word", stored(two, 4, 1, half, 8))
    few = entropy_bytes([16, 0], many, [])
    broken("S8", "1025 codes a byte", stored(one, 4, 40, few, 1024 * len(few) + 1))
    turns = entropy_bytes([256] + [0] * 255, [1 << 16], [])
    broken("S9", "65537 turns", stored(eight, 8, 1, turns, 2 * 65536 + 3))
    broken(
        "S10", "frequencies of 15", stored(two, 4, 1, entropy_bytes([8, 4, 2, 1], [1 << 16], []), 8)
    )
    broken(
        "S10",
        "frequencies of 32",
        stored(two, 4, 1, entropy_bytes([16, 8, 4, 4], [1 << 16], []), 8),
    )
    broken("S11", "a state below 2^16", stored(two, 4, 1, entropy_bytes(sound, [65535], []), 8))
    # In state 2^16 the code 0 of frequency 8 leaves 2^15, which reads a word.
    reading = entropy_bytes(sound, [1 << 16], [])
    broken("S12", "words missing", stored(two, 4, 1, reading, 9))
    broken("S12", "a word left over", stored(two, 4, 1, entropy_bytes(sound, [1 << 16], [0]), 8))
    broken("S13", "a last state of 2^17", stored(two, 4, 1, entropy_bytes(sound, [1 << 17], []), 8))
    behind = entropy_bytes(sound, [(1 << 16) + (1 << 15)], [])
    broken("S14", "a bit after the last code", stored(two, 4, 1, behind, 7))
    byte = entropy_bytes(sound, [(1 << 16) + (1 << 12)], [])
    broken("S14", "a byte after the last code", stored(two, 4, 1, byte, 2))
    later = entropy_bytes(sound, [1 << 16, (1 << 16) + 1], [])
    broken("S14", "a lane after the last code", stored(two, 4, 2, later, 8))


for _part in (_codebooks, _quantizers, _layers, _codes, _sign_planes, _storages):
    _part()
