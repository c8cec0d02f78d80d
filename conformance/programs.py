"""Files with an integer program, field by field as section 8 of FORMAT.md has it.

The program uses every instruction. The network of its file has no nodes, only the layers it reads.
"""

from __future__ import annotations

import copy
import re
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from conformance.files import Json, Maker, Packed, Tensor, pack
from conformance.valid import SMALL, image

LEVELS, NARROW, WIDE, IMAGE = range(4)
_SIZES = {LEVELS: 1, NARROW: 4, WIDE: 8}
_LIMITS = -(1 << 63), (1 << 63) - 1
PIXELS = [(place * 7) % 23 - 4 for place in range(16)]
"""The image that the program is run on, [1, 4, 4]."""

PROGRAMS: dict[str, bytes] = {}
"""The files by name: a sound one, and some that break a rule of section 8.10 each."""

Fields = dict[str, bytes]


class _Assembler:
    """Collects the fields of a program by name, and places its values one after the other."""

    def __init__(self) -> None:
        self.fields: Fields = {}
        self.used = 0

    def words(self, **fields: int) -> None:
        for name, number in fields.items():
            self.raw(name, struct.pack("<I", number))

    def raw(self, name: str, content: bytes) -> None:
        key = name.replace("__", ".")
        assert key not in self.fields, key
        self.fields[key] = content

    def place(self, kind: int, count: int) -> tuple[int, int]:
        """Return kind and offset of a new value."""
        offset = self.used
        self.used += -(-count * _SIZES[kind] // 8) * 8
        return kind, offset

    def value(self, name: str, where: tuple[int, int]) -> None:
        self.words(**{f"{name}__kind": where[0], f"{name}__offset": where[1]})

    def part(self, name: str, where: tuple[int, bytes]) -> None:
        position, content = where
        self.words(
            **{
                f"{name}__position": position,
                f"{name}__size": len(content),
                f"{name}__checksum": zlib.crc32(content),
            }
        )


def _network() -> Packed:
    maker = Maker([1, 4, 4])
    maker.coded("c", [2, 1, 2, 2], SMALL, [1, 6, 2, 3, 5, 0, 7, 1])
    planes = {"kind": "planes", "shape": [2, 2, 1, 1], "group_size": 2, "terms": 2}
    maker.network["layers"]["p"] = planes
    maker.octets("p.terms", bytes([64, 63, 0xC1, 0]), [2, 2])
    maker.octets("p.planes", pack([1, 1], 3) + pack([1, 0, 1, 1], 1))
    return maker.packed([image([1, 4, 4])])


def _fields(parts: Mapping[str, tuple[int, bytes]]) -> Fields:
    """Return all fields but the last 16 bytes."""
    a = _Assembler()
    levels, signs = a.place(LEVELS, 16), a.place(LEVELS, 18)
    sums, scaled, weighted, added = (a.place(kind, 18) for kind in (NARROW, WIDE, NARROW, NARROW))
    largest, total, both = (a.place(NARROW, 8) for _ in range(3))
    repeated, logits = a.place(NARROW, 16), a.place(WIDE, 16)
    a.words(head__channels=1, head__height=4, head__width=4, head__bits=0, head__fraction=0)
    a.raw("head__scale", struct.pack("<d", 0.5))
    a.words(head__values=a.used, head__scratch=168, head__classes=16)
    a.value("head__logits", logits)
    a.words(head__instructions=11)
    a.words(quantize__word=2)
    a.value("quantize__from", (IMAGE, 0))
    a.words(quantize__channels=1, quantize__plane=16, quantize__how=2)
    a.value("quantize__to", levels)
    a.words(quantize__records=1, quantize__thresholds=3, quantize__width=1)
    a.raw("quantize__levels", struct.pack("<4i", 0, 1, 2, 5))
    a.raw("quantize__record", struct.pack("<B3b", 0, -1, 3, 9))
    _codes(a, parts, levels, (sums, scaled, signs))
    _planes(a, parts, signs, weighted)
    a.words(sum__word=3, sum__count=18)
    for name, where in (("a", sums), ("b", weighted), ("to", added)):
        a.value(f"sum__{name}", where)
    a.words(shifted__word=3, shifted__count=18)
    for name, where in (("a", added), ("b", scaled), ("to", added)):
        a.value(f"shifted__{name}", where)
    for number, (name, where) in enumerate((("maximum", largest), ("total", total))):
        a.words(**{f"{name}__word": 4 + number})
        a.value(f"{name}__from", added)
        a.value(f"{name}__to", where)
        geometry = {"channels": 2, "height": 3, "width": 3, "rows": 2, "columns": 2}
        geometry |= {"kernel": 2, "kernel_width": 2, "stride": 2, "stride_width": 2}
        geometry |= {"padding": 1, "padding_width": 1}
        a.words(**{f"{name}__{field}": extent for field, extent in geometry.items()})
    a.words(join__word=3, join__count=8)
    for name, where in (("a", largest), ("b", total), ("to", both)):
        a.value(f"join__{name}", where)
    a.words(repeat__word=6)
    a.value("repeat__from", both)
    a.value("repeat__to", repeated)
    extents = {"channels": 2, "height": 2, "width": 2, "scale": 1, "scale_width": 2}
    a.words(**{f"repeat__{field}": extent for field, extent in extents.items()})
    for name, source, target in (("clamp", repeated, logits), ("copy", logits, logits)):
        a.words(**{f"{name}__word": 2})
        a.value(f"{name}__from", source)
        a.words(**{f"{name}__channels": 2, f"{name}__plane": 8, f"{name}__how": 0})
        a.value(f"{name}__to", target)
        a.raw(f"{name}__limits", struct.pack("<2q", *((-60, 1000) if name == "clamp" else _LIMITS)))
    return a.fields


def _convolution(a: _Assembler, name: str, source: tuple[int, int], **geometry: int) -> None:
    a.words(**{f"{name}__word": 1})
    a.value(f"{name}__from", source)
    fixed = dict.fromkeys(("stride", "stride_width", "dilation", "dilation_width"), 1)
    fixed |= {"padding": 0, "padding_width": 0}
    order = (
        *("groups", "inputs", "outputs", "height", "width", "rows", "columns"),
        *("kernel", "kernel_width", "stride", "stride_width", "padding", "padding_width"),
        *("dilation", "dilation_width", "sums", "weights"),
    )
    a.words(**{f"{name}__{field}": ({"groups": 1} | fixed | geometry)[field] for field in order})


def _codes(
    a: _Assembler, parts: Any, source: tuple[int, int], targets: tuple[tuple[int, int], ...]
) -> None:
    size = {"height": 4, "width": 4, "rows": 3, "columns": 3, "kernel": 2, "kernel_width": 2}
    _convolution(a, "codes", source, inputs=1, outputs=2, sums=1, weights=0, **size)
    a.part("codes__codes", parts["c.codes"])
    a.words(codes__signed=1, codes__tables=1)
    a.raw("codes__table_bits", b"\2")
    a.raw("codes__addends", bytes([0, 64 + 2, 64 + 1, 64]))
    a.words(codes__posts=3, store__how=0)
    a.value("store__to", targets[0])
    a.raw("store__limits", struct.pack("<2q", *_LIMITS))
    a.words(scale__how=1)
    a.value("scale__to", targets[1])
    a.words(scale__records=2, scale__shift=2, scale__digits=2)
    a.raw("scale__first", struct.pack("<iq2B", 7, 5, 64 | 128, 64 | 3))  # 7 = 8 - 1
    a.raw("scale__second", struct.pack("<iq2B", -4, -1, 64 | 128 | 2, 0))
    a.words(fall__how=2)
    a.value("fall__to", targets[2])
    a.words(fall__records=2, fall__thresholds=2, fall__width=2)
    a.raw("fall__levels", struct.pack("<3i", 0, 3, 7))
    a.raw("fall__first", struct.pack("<B2h", 0, -3, 2))
    a.raw("fall__second", struct.pack("<B2h", 1, -9, 1))


def _planes(a: _Assembler, parts: Any, source: tuple[int, int], target: tuple[int, int]) -> None:
    size = {"height": 3, "width": 3, "rows": 3, "columns": 3, "kernel": 1, "kernel_width": 1}
    _convolution(a, "signs", source, inputs=2, outputs=2, sums=2, weights=1, **size)
    a.part("signs__planes", parts["p.planes"])
    a.part("signs__terms", parts["p.terms"])
    a.words(
        signs__group_size=2, signs__weight_groups=2, signs__count_bits=3, signs__position_major=0
    )
    a.words(signs__terms_of_a_base=2, signs__fraction=1)
    a.words(signs__posts=1, narrow__how=0)
    a.value("narrow__to", target)
    a.raw("narrow__limits", struct.pack("<2q", -20, 20))


def logits() -> list[int]:
    """Return what the program makes of the image."""
    thresholds = {0: (-1, 3, 9), 1: (-3, 2), 2: (-9, 1)}

    def quantized(x: int, which: int, found: tuple[int, ...]) -> int:
        return found[sum(threshold <= x for threshold in thresholds[which])]

    x = [quantized(pixel, 0, (0, 1, 2, 5)) for pixel in PIXELS]
    weights = [[4, -2, 2, 1], [-4, 0, -1, 4]]  # the codes 1 6 2 3 and 5 0 7 1
    corners = [row * 4 + column for row in range(3) for column in range(3)]
    sums = [
        [
            sum(w * x[at + offset] for w, offset in zip(kernel, (0, 1, 4, 5), strict=True))
            for at in corners
        ]
        for kernel in weights
    ]
    signs = [
        [quantized(y, 1, (0, 3, 7)) for y in sums[0]],
        [quantized(-y, 2, (0, 3, 7)) for y in sums[1]],
    ]
    # Coordinates 1 + 1/2 and -2, times 2: 3 x (1, -1) and -4 x (1, 1).
    weighted = [
        [3 * (one - other) for one, other in zip(*signs, strict=True)],
        [-4 * (one + other) for one, other in zip(*signs, strict=True)],
    ]
    found = []
    for plane, more, (m, b) in zip(sums, weighted, ((7, 5), (-4, -1)), strict=True):
        added = [
            one + min(max(other, -20), 20) + ((one * m + b) >> 2)
            for one, other in zip(plane, more, strict=True)
        ]
        for rows in ((0,), (1, 2)):
            windows = [
                [added[3 * r + c] for r in rows for c in columns] for columns in ((0,), (1, 2))
            ]
            both = [max(window) + sum(window) for window in windows]
            found += [min(max(number, -60), 1000) for number in both for _ in range(2)]
    return found


# --- files ----------------------------------------------------------------------------------------


def _sealed(fields: Fields, version: int = 1) -> bytes:
    body = b"".join(fields.values())
    body += struct.pack("<2I", version, len(body) + 16)
    return body + struct.pack("<I", zlib.crc32(body)) + b"APIN"


def _file(program: Callable[[Fields], bytes]) -> bytes:
    parts = _network()
    header, data = parts.header()
    offsets = {
        name: entry["data_offsets"] for name, entry in header.items() if "data_offsets" in entry
    }
    places = {name: (begin, data[begin:end]) for name, (begin, end) in offsets.items()}
    content = program(_fields(places))
    parts.tensors["integer"] = Tensor("U8", [len(content)], content)
    return parts.sealed()


def _broken(
    rule: str, problem: str, program: Callable[[Fields], bytes] | None = None, **changes: Any
) -> None:
    """Put a file on the list, some fields of whose program are changed."""

    def changed(fields: Fields) -> bytes:
        fields = copy.copy(fields)
        for name, found in changes.items():
            key = name.replace("__", ".")
            assert key in fields, key
            fields[key] = found if isinstance(found, bytes) else struct.pack("<I", found)
        return _sealed(fields) if program is None else program(fields)

    name = re.sub(r"[^a-z0-9]+", "-", problem.lower()).strip("-")
    PROGRAMS[f"{rule}-{name}"] = _file(changed)


def _containers() -> None:
    def flipped(place: int) -> Callable[[Fields], bytes]:
        def change(fields: Fields) -> bytes:
            content = bytearray(_sealed(fields))
            content[place] ^= 1
            return bytes(content)

        return change

    _broken("I1", "another magic", flipped(-1))
    _broken("I2", "another version", lambda fields: _sealed(fields, 2))
    _broken("I3", "a bit of the program", flipped(40))
    _broken("I3", "a checksum of codes", codes__codes__checksum=0)
    _broken("I10", "bytes left over", lambda fields: _sealed({**fields, "more": bytes(4)}))
    _broken("I10", "an instruction too few", head__instructions=12)


def _ranges() -> None:
    fields: list[tuple[str, Json]] = [
        ("an instruction 7", {"copy__word": 7}),
        ("a result in the image", {"clamp__to__kind": 3}),
        ("a shift of 63", {"scale__shift": 63}),
        ("a stride of 0", {"codes__stride": 0}),
    ]
    for problem, changes in fields:
        _broken("I4", problem, **changes)


_SPACE = 688
"""Bytes of the values."""


def _places() -> None:
    _broken("I5", "a value beyond the workspace", copy__to__offset=_SPACE - 64)
    _broken("I5", "a value off its boundary", copy__to__offset=_SPACE - 132)
    _broken("I5", "codes beyond the data", codes__codes__position=1 << 20)
    _broken("I6", "rows of another height", codes__rows=2)
    _broken("I7", "codes of fewer weights", codes__outputs=1, scale__records=1, fall__records=1)
    _broken("I8", "digits of another sum", scale__first=struct.pack("<iq2B", 7, 5, 64, 64 | 3))
    _broken("I8", "an addend of a half", codes__addends=bytes([0, 66, 65, 63]))
    _broken("I9", "8 bytes of scratch memory too few", head__scratch=160)
    _broken("I11", "2^31 numbers", sum__count=1 << 31)


PROGRAMS["sound"] = _file(_sealed)
for _part in (_containers, _ranges, _places):
    _part()
