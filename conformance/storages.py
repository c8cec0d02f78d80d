"""The valid files of the kit that show how codes and sign vectors are stored."""

from __future__ import annotations

import itertools

from conformance.files import Json, Maker, Packed, digits, entropy, pack
from conformance.valid import VALID, WEIGHTS, image, uniform, valid

__all__ = ["VALID"]


@valid
def storage_of_digits() -> Packed:
    """Codes as digits of bases from 2 to 16, and of meanings that are not 0 to n - 1."""
    maker = Maker([3, 1, 1])
    maker.node("flat", "Flatten")
    book, bases = uniform(4, signed=True), (2, 3, 4, 5, 6, 7, 10, 16)
    for base in bases:
        used = [code for code in range(31) if code % 2][:base] + list(range(30, 32))[: base - 15]
        codes = [used[number * 7 % base] for number in range(9 if base > 2 else 15)]
        name = f"base{base}"
        maker.coded(name, [len(codes) // 3, 3], book, codes, storage={"digits": used})
        maker.octets(f"{name}.codes", digits(codes, used))
        maker.node(f"{name}.sums", "Linear", "flat", layer=name)
    maker.node("all", "Concat", *(f"base{base}.sums" for base in bases))
    return maker.packed([[[[1]], [[-1]], [[0.5]]]])


@valid
def storage_of_entropy() -> Packed:
    """Entropy-coded codes of 1 to 9 bits: m from 4 to 15, few and many lanes and codes."""
    maker = Maker([4, 1, 1])
    maker.node("flat", "Flatten")
    ends = []
    for bits, m, lanes, count in [
        (1, 4, 1, 92), (2, 5, 2, 36), (3, 4, 3, 60), (3, 8, 7, 48), (4, 15, 1, 24),
        (9, 10, 3, 24), (2, 4, 40, 8), (2, 15, 2, 60),
    ]:  # fmt: skip
        book = uniform(bits - 1, signed=True) if bits > 1 else WEIGHTS["sign-alone"]
        codes = [min(number * number % 19, number * 7 % 5) % (1 << bits) for number in range(count)]
        used = sorted({*codes, (1 << bits) - 1})
        frequencies = [int(code in used) for code in range(1 << bits)]
        frequencies[codes[1]] += (1 << m) - sum(frequencies)
        name = f"b{bits}m{m}j{lanes}"
        storage = {"entropy": [m, lanes]}
        maker.coded(name, [count // 4, 4], book, codes, 2.0**-3, storage=storage)
        maker.octets(f"{name}.codes", entropy(codes, bits, frequencies, lanes))
        ends.append(maker.node(f"{name}.sums", "Linear", "flat", layer=name))
    maker.node("all", "Concat", *ends)
    return maker.packed([[[[1]], [[-1]], [[0.5]], [[2]]]])


@valid
def sign_planes() -> Packed:
    """Multi-bit weights: coordinates and terms, both orders, any number of bits of the counts."""
    maker = Maker([4, 2, 2])
    ends = []
    for number, (counts, count_bits, terms, position_major, shape, size) in enumerate(
        [
            ([2, 1, 0, 3], None, 0, False, [2, 4, 1, 1], 2),
            ([1, 2], None, 2, False, [2, 4, 1, 1], 4),
            ([1, 0, 2, 1, 1, 1, 3, 1], 2, 0, True, [2, 4, 2, 2], 4),
            ([2, 1, 1, 1, 1, 1, 1, 1], 3, 3, True, [2, 4, 2, 2], 4),
            ([0, 0], 1, 0, False, [2, 4, 1, 1], 4),
            ([0, 0], 1, 1, False, [2, 4, 1, 1], 4),
            ([3, 1], 8, 1, False, [4, 4, 1, 1], 8),
            ([5, 1, 2], 4, 0, False, [3, 4, 1, 1], 4),
            ([1], 1, 0, False, [3, 4, 1, 1], 12),
        ]
    ):
        name, bases = f"planes{number}", sum(counts)
        layer: Json = {"kind": "planes", "shape": shape, "group_size": size}
        if count_bits:
            layer["count_bits"] = count_bits
        if position_major:
            layer["position_major"] = True
        if terms:
            layer["terms"] = terms
            if bases:
                octets = [(0, 64, 0xC0, 63, 0xBE, 66)[place % 6] for place in range(bases * terms)]
                maker.octets(f"{name}.terms", bytes(octets), [bases, terms])
        else:
            layer["coordinates"] = maker.run([2.0 ** -(place % 5) for place in range(bases)])
        signs = [place * place % 3 % 2 for place in range(bases * size)]
        maker.octets(f"{name}.planes", pack(counts, count_bits or 3) + pack(signs, 1))
        maker.network["layers"][name] = layer
        maker.node(name, "Convolution", "image", layer=name)
        ends.append(maker.node(f"{name}.flat", "Flatten"))
    layer = {
        "kind": "planes",
        "shape": [2, 16],
        "group_size": 8,
        "coordinates": maker.run([2, 1, 3]),
    }
    maker.network["layers"]["matrix"] = layer
    maker.octets("matrix.planes", pack([1, 0, 2, 0], 3) + pack([1, 0, 0] * 8, 1))
    maker.node("flat", "Flatten", "image")
    ends.append(maker.node("matrix", "Linear", layer="matrix"))
    maker.node("all", "Concat", *ends)
    return maker.packed([image([4, 2, 2])])


@valid
def coordinates_rounded_once() -> Packed:
    """Coordinates whose terms are far apart: ties, and numbers just beside them (3.6)."""
    rows = [
        [64, 40, 0, 0], [64, 40, 1, 0], [64, 40, 0x81, 0], [65, 41, 0, 0], [127, 127, 127, 127],
        [0xFF, 1, 0, 0], [64, 0xC0, 1, 0], [64, 41, 40, 16], [64, 41, 40, 0x90], [1, 1, 1, 1],
    ]  # fmt: skip
    maker = Maker([1, 1, 1])
    maker.node("flat", "Flatten")
    layer = {"kind": "planes", "shape": [len(rows), 1], "group_size": 1, "terms": 4}
    maker.network["layers"]["x"] = layer
    maker.octets("x.planes", pack([1] * len(rows), 3) + pack([1] * len(rows), 1))
    maker.octets("x.terms", bytes(itertools.chain(*rows)), [len(rows), 4])
    maker.node("logits", "Linear", layer="x")
    return maker.packed([[[[1]]]])
