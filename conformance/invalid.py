"""The invalid files of the kit: containers, metadata and tensors.

Every file breaks one rule of section 5 of FORMAT.md, and keeps all others as far as can be.
"""

from __future__ import annotations

import copy
import json
import struct
from typing import Any

from conformance.breaking import (
    ABSENT,
    INVALID,
    broken,
    coded,
    described,
    floats,
    quantized,
    with_bytes,
    with_header,
    with_text,
)
from conformance.files import Packed, Tensor, dumps, seal, seal_raw
from conformance.valid import SMALL

__all__ = ["INVALID"]


def _containers() -> None:
    sound = floats().sealed()
    header, data = floats().header()
    text = dumps(header)
    broken("F1", "another format", b"\x89PNG\r\n\x1a\n" * 9)
    other = json.loads(text.replace("header_crc32", "header_CRC32"))
    broken("F1", "another first member", seal(other, data))
    broken("F2", "empty", b"")
    broken("F2", "seven bytes", sound[:7])
    broken("F2", "header cut", sound[:200])
    broken("F2", "a length beyond the end", struct.pack("<Q", len(sound)) + sound[8:])
    broken("F3", "a length of 2^63", struct.pack("<Q", 1 << 63) + sound[8:])
    raw = sound[8 : len(sound) - len(data)]
    broken("F4", "data off the boundary", seal_raw(raw + b" ", data))
    wrong = bytearray(sound)
    wrong[100] ^= 1
    broken("F5", "a bit of the header", bytes(wrong))
    wrong = bytearray(sound)
    wrong[41] = ord("g")
    broken("F5", "a checksum that is no number", bytes(wrong))
    shouting = sound.replace(sound[41:49], sound[41:49].upper(), 1)
    assert shouting != sound
    broken("F5", "upper-case digits", shouting)
    broken("F6", "no JSON", seal(text[:-1], data))
    broken("F6", "not ASCII", with_text(floats(), '"sums', '"s\u00fcms'))
    broken("F6", "a newline behind", seal_raw(text.encode().ljust(len(raw) - 1) + b"\n", data))
    broken("F6", "a second object", seal(text + " {}", data))
    lonely = with_header(floats(), lambda found: found["__metadata__"].update(note="\ud83d"))
    broken("F7", "half a surrogate pair", lonely)
    broken("F8", "a tensor twice", with_text(floats(), '"f.weight"', '"parameters"'))
    broken("F8", "a member of network twice", described(floats(), "{", '{"output":"sums",'))
    broken("F8", "a member of provenance twice", _provenance('{"a":1,"a":1}'))
    deep = "[" * 32 + "]" * 32
    broken("F10", "33 inside each other", _provenance(f'{{"a":{deep}}}'))
    broken("F9", "NaN in the header", with_text(floats(), '"shape":[4]', '"shape":[NaN]'))
    broken("F9", "Infinity in network", described(quantized(), '"step":0.5', '"step":Infinity'))
    broken("F9", "Infinity in provenance", _provenance('{"a":-Infinity}'))


def _provenance(text: str) -> bytes:
    return with_header(floats(), lambda header: header["__metadata__"].update(provenance=text))


def _metadata() -> None:
    def changed(name: str, value: Any) -> bytes:
        def change(header: Any) -> None:
            if value is ABSENT:
                del header["__metadata__"][name]
            else:
                header["__metadata__"][name] = value

        return with_header(floats(), change)

    broken("M1", "a number", changed("note", 1))
    broken("M2", "another format", changed("format", "apot"))
    broken("M2", "no format", changed("format", ABSENT))
    broken("M3", "no version", changed("format_version", ABSENT))
    for version in ("4", "02"):
        broken("M3", f"version {version}", changed("format_version", version))
    for name in ("network", "provenance", "checksums"):
        broken("M4", f"no {name}", changed(name, ABSENT))
    broken("M5", "interface is an array", changed("interface", "[]"))
    for name in ("network", "provenance"):
        broken("M5", f"{name} is an array", changed(name, "[]"))
        broken("M5", f"{name} is no JSON", changed(name, "{"))


def _tensors() -> None:
    def entry(change: Any, name: str = "f.weight") -> bytes:
        return with_header(floats(), lambda header: header[name].update(change))

    sound, (header, data) = floats().sealed(), floats().header()
    missing = with_header(floats(), lambda found: found["f.weight"].pop("dtype"))
    broken("T1", "no dtype", missing)
    broken("T1", "an additional member", entry({"note": ""}))
    broken("T1", "an array", with_header(floats(), lambda found: found.update({"f.weight": []})))
    for dtype in ("F64", "f32", 1):
        broken("T2", f"dtype {dtype}", entry({"dtype": dtype}))
    broken("T3", "an extent of 0", entry({"shape": [2, 2, 1, 0]}))
    broken("T3", "five axes", entry({"shape": [2, 2, 1, 1, 1]}))
    broken("T3", "a negative extent", entry({"shape": [-2, -2, 1, 1]}))
    broken("T3", "a fraction", with_text(floats(), '"shape":[2,2,1,1]', '"shape":[2,2,1,1.0]'))
    broken("T3", "2^31", entry({"shape": [1 << 31, 1 << 31, 1 << 31, 1 << 31]}))
    broken("T4", "three", entry({"data_offsets": [16, 24, 32]}))
    broken("T4", "negative", entry({"data_offsets": [-16, 0]}, "parameters"))
    broken("T4", "falling", entry({"data_offsets": [32, 16]}))
    broken("T5", "a larger shape", entry({"shape": [2, 3, 1, 1]}))
    broken("T6", "a hole", with_header(floats(), _with_hole))
    broken("T6", "an overlap", entry({"data_offsets": [12, 28]}))
    broken("T6", "a hole at the start", seal(_moved(header, 4), bytes(4) + data))
    broken(
        "T6",
        "a hole of 16 bytes",
        seal(_moved(header, 16, first=16), data[:16] + bytes(16) + data[16:]),
    )
    broken("T7", "the last byte cut", sound[:-1])
    broken("T7", "a byte more", sound + b"\0")


def _padding() -> None:
    broken("T8", "padding of 64 bytes", _padded(Tensor("U8", [64], bytes(64))))
    broken("T8", "padding of F32", _padded(Tensor("F32", [1], bytes(4))))
    broken("T9", "padding of a one", _padded(Tensor("U8", [1], b"\1")))
    large = coded(SMALL, bytes(1 << 14), (1 << 17) // 3)
    broken("T10", "16384 bytes off the boundary", _unpadded(large, "c.codes"))
    uneven = quantized()
    uneven.tensors = {"q.codes": uneven.tensors["q.codes"], **uneven.tensors}
    broken("T11", "F32 off the boundary", _unpadded(uneven, "parameters"))


def _padded(tensor: Tensor) -> bytes:
    """Call a tensor padding."""
    parts = floats()
    parts.tensors["last"] = tensor
    header, data = parts.header()
    header["_padding.2"] = header.pop("last")
    stated = header["__metadata__"]["checksums"]
    return seal(_summed(header, stated[:-8]), data)


def _unpadded(parts: Packed, name: str) -> bytes:
    """Leave out the padding before the last tensor."""
    header, data = parts.header()
    (padding,) = (other for other in header if other.startswith("_padding."))
    begin, end = header.pop(padding)["data_offsets"]
    header[name]["data_offsets"] = [begin, begin + len(data) - end]
    return seal(header, data[:begin] + data[end:])


def _checksums() -> None:
    sound, (header, data) = floats().sealed(), floats().header()
    wrong = bytearray(sound)
    wrong[-1] ^= 1
    broken("T12", "a bit of a tensor", bytes(wrong))
    stated = header["__metadata__"]["checksums"]
    assert stated != stated.upper()
    for problem, checksums in (
        ("upper-case digits", stated.upper()),
        ("no digits", "x" * 16),
        ("another order", stated[8:] + stated[:8]),
    ):
        broken("T12", problem, seal(_summed(header, checksums), data))
    for problem, checksums in (
        ("one too few", stated[:8]),
        ("one too many", stated + "00000000"),
    ):
        broken("T13", problem, seal(_summed(header, checksums), data))
    for name, word in (
        ("NaN", 0x7FC00000),
        ("infinity", 0x7F800000),
    ):
        tensor = "parameters" if name == "infinity" else "f.weight"
        number = enumerate(struct.pack("<I", word))
        broken("T14", f"{name} in {tensor}", with_bytes(floats(), tensor, *number))


def _with_hole(header: Any) -> None:
    del header["parameters"]
    header["__metadata__"]["checksums"] = header["__metadata__"]["checksums"][8:]


def _moved(header: Any, distance: int, first: int = 0) -> Any:
    moved = copy.deepcopy(header)
    for name, entry in moved.items():
        if name != "__metadata__" and entry["data_offsets"][0] >= first:
            entry["data_offsets"] = [place + distance for place in entry["data_offsets"]]
    return moved


def _summed(header: Any, checksums: str) -> Any:
    return {**header, "__metadata__": {**header["__metadata__"], "checksums": checksums}}


for _part in (_containers, _metadata, _tensors, _padding, _checksums):
    _part()
