"""The valid files of the kit: every feature of FORMAT.md, in networks as small as show it."""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Callable
from typing import Any

from conformance.files import Json, Maker, Packed, entropy, f32, width

VALID: dict[str, Callable[[], Packed]] = {}
"""Functions that make the files' parts, by the files' names; docstrings say what they show."""


def valid(make: Callable[[], Packed]) -> Callable[[], Packed]:
    """Put a file on the list, under the function's name."""
    VALID[make.__name__.replace("_", "-")] = make
    return make


# --- codebooks (2.2) ------------------------------------------------------------------------------


def _book(tables: list[list[int]], denominator: int, *, signed: bool) -> Json:
    return {"tables": tables, "denominator": denominator, "signed": signed}


def _bits(number: int) -> list[list[int]]:
    return [[0, 1 << place] for place in range(number)]


_ADDITIVE = {
    2: [[0, 4, 2, 1]],
    3: [[0, 8, 4, 1], [0, 2]],
    4: [[0, 32, 8, 2], [0, 16, 4, 1]],
    5: [[0, 64, 16, 2], [0, 32, 8, 1], [0, 4]],
    6: [[0, 256, 32, 4], [0, 128, 16, 2], [0, 64, 8, 1]],
}


def additive(bits: int, *, signed: bool) -> Json:
    """Return additive powers of two of so many magnitude bits."""
    tables = _ADDITIVE[bits]
    return _book(tables, sum(map(max, tables)), signed=signed)


def powers(bits: int, *, signed: bool) -> Json:
    """Return powers of two of so many magnitude bits."""
    largest = (1 << bits) - 2
    table = [0, *(1 << shift for shift in range(largest, -1, -1))]
    return _book([table], 1 << largest, signed=signed)


def uniform(bits: int, *, signed: bool) -> Json:
    """Return integers of so many magnitude bits."""
    return _book(_bits(bits), (1 << bits) - 1, signed=signed)


SMALL = additive(2, signed=True)
WEIGHTS = {
    **{f"additive-{bits + 1}": additive(bits, signed=True) for bits in range(2, 7)},
    **{f"powers-{bits + 1}": powers(bits, signed=True) for bits in range(2, 5)},
    **{f"uniform-{bits + 1}": uniform(bits, signed=True) for bits in (1, 2, 7, 8)},
    "binary": _book([[-1, 1]], 1, signed=False),
    "grid-without-zero": _book([[-1, 1], [-2, 2]], 3, signed=False),
    "unsigned": uniform(3, signed=False),
    "twos-complement": _book([[0, 1], [0, 2], [0, -4]], 4, signed=False),
    "sign-alone": _book([], 1, signed=True),
    "largest-level": _book([[0, 1 << 23], [0, 1 << 22]], 1 << 23, signed=True),
    "repeated-entries": _book([[1, 1, 0, -8]], 5, signed=True),
}
ACTIVATIONS = {
    **{f"additive-{bits}": (additive(bits, signed=False), {}) for bits in range(2, 7)},
    **{f"powers-{bits}": (powers(bits, signed=False), {}) for bits in range(2, 4)},
    **{f"uniform-{bits}": (uniform(bits, signed=False), {}) for bits in (1, 2, 4, 8)},
    "signed": (uniform(2, signed=True), {}),
    "clipped-from-above": (_book([[0, 1], [0, 2], [0, -4]], 3, signed=False), {}),
    "no-zero": (_book([[1, 4]], 4, signed=False), {}),
    "fewer-input-steps": (additive(2, signed=False), {"input_denominator": 3}),
    "more-input-steps": (additive(3, signed=False), {"input_denominator": 13}),
    "default-stated": (additive(2, signed=False), {"input_denominator": 4}),
}


def _codes(book: Json, count: int, factor: int = 5) -> list[int]:
    """Return codes that differ, the last of all among them."""
    return [
        (number * factor + (1 << width(book)) - 1) % (1 << width(book)) for number in range(count)
    ]


def image(shape: list[int], step: float = 0.25, first: int = 0) -> Any:
    """Return numbers from -5 to 5 steps in an array [C][H][W]."""
    numbers = iter([((first + number) * 7 % 11 - 5) * step for number in range(math.prod(shape))])
    return [
        [[next(numbers) for _ in range(shape[2])] for _ in range(shape[1])] for _ in range(shape[0])
    ]


# --- containers and names (1, 2.4) ----------------------------------------------------------------


@valid
def minimum() -> Packed:
    """No layers, nodes or tensors: the output is the input."""
    return Maker([1, 1, 1]).packed([[[[1.5]]]])


@valid
def example_of_the_specification() -> Packed:
    """The file of section 7.4, which is written out there."""
    maker = Maker([2, 1, 1])
    maker.network["codebooks"] = [additive(3, signed=True), additive(2, signed=False)]
    activation = {"codebook": 1, "alpha": 2.0}
    book = additive(3, signed=True)
    maker.coded("conv", [2, 2, 1, 1], book, [7, 13, 8, 6], 0.125, alpha=1.25, activation=activation)
    maker.node("conv.levels", "QuantizeActivation", layer="conv")
    maker.node("conv.sums", "Convolution", layer="conv")
    maker.node("conv", "ScaleBias", scale=maker.run([0.0625, 0.125]), bias=maker.run([0.25, -1]))
    maker.node("logits", "Flatten")
    found = maker.packed([[[[1.75]], [[struct.unpack("<f", f32(0.6))[0]]]]])
    found.provenance = {"tool": "example"}
    return found


@valid
def names() -> Packed:
    """Names of any characters, also those that mean something to a language."""
    odd = [
        "",
        "ä",
        "日本",
        "😀",
        '"\\/\n',
        "__proto__",
        "constructor",
        "0",
        "10",
        "9",
        "a.b",
        "parameters",
    ]
    maker = Maker([2, 1, 1], "größe")
    maker.node("_padding.0", "Flatten")
    for number, name in enumerate(odd):
        if number % 2:
            maker.coded(name, [2, 2], SMALL, [number % 8, 1, 7, 4])
        else:
            maker.floats(name, [2, 2], [number, -1, 0.5, 0])
        maker.node(name, "Linear", "_padding.0", layer=name)
    maker.node("sum", "Concat", *odd)
    found = maker.packed([[[[1]], [[-2]]]])
    deep: Any = [None]
    for _ in range(30):
        deep = [deep]
    found.provenance = {"größe": "😀", "32 inside each other": deep, "numbers": [1e300, -0.5]}
    found.interface = {"classes": ["日本", ""], "": None}
    return found


@valid
def alignment() -> Packed:
    """A tensor of 16384 bytes behind padding, and small ones that need none."""
    maker = Maker([2, 1, 1])
    maker.node("flat", "Flatten")
    book = uniform(1, signed=True)
    codes = [0, 1, 3, 0, 1, 1, 3, 2]
    for name, lanes in (("at", 4094), ("behind", 1)):
        maker.coded(name, [4, 2], book, codes, storage={"entropy": [4, lanes]})
        maker.octets(f"{name}.codes", entropy(codes, 2, [8, 5, 1, 2], lanes))
        maker.node(name, "Linear", "flat", layer=name)
    maker.coded("first", [1, 1], WEIGHTS["sign-alone"], [1])
    found = maker.packed([[[[1]], [[-2]]]])
    order = ["parameters", "first.codes", "at.codes", "behind.codes"]
    found.tensors = {name: found.tensors[name] for name in order}
    return found


@valid
def order_of_runs() -> Packed:
    """Runs of `parameters` in another order than that of layers and nodes."""
    maker = Maker([2, 1, 1])
    bias = maker.run([1, 2])
    maker.coded("layer", [2, 2, 1, 1], SMALL, [1, 2, 3, 4])
    maker.node("sums", "Convolution", layer="layer")
    maker.node("again", "ScaleBias", bias=maker.run([0.5, -0.5]), scale=2)
    maker.node("scaled", "ScaleBias", scale=maker.run([4, 8]), bias=bias)
    return maker.packed([[[[1]], [[-2]]]])


@valid
def float_extremes() -> Packed:
    """Negative zeros, subnormal and largest numbers of float weights, values and scales."""
    maker = Maker([1, 1, 1])
    tiny, large = 2.0**-149, (2 - 2.0**-23) * 2.0**127
    maker.floats("floats", [4, 1, 1, 1], [-0.0, tiny, -large, 2.0**-126 - tiny])
    maker.coded("codes", [2, 4, 1, 1], uniform(1, signed=True), [0, 2, 1, 3, 2, 2, 0, 1], tiny)
    maker.node("weights", "Convolution", layer="floats")
    maker.node("scaled", "ScaleBias", scale=maker.run([1, 1, 2.0**-126, 0.5]), bias=-tiny)
    maker.node("rounded", "ScaleBias", scale=1e-46, bias=1 + 2.0**-24 + 2.0**-50)
    maker.node("clipped", "Clip", "scaled", minimum=-1e300, maximum=1e39)
    return maker.packed([[[[1]]]])


# --- layers (2.3, 3) ------------------------------------------------------------------------------


@valid
def weight_codebooks() -> Packed:
    """Every family of weight codebooks; codes of 1 to 9 bits."""
    maker = Maker([3, 1, 1])
    maker.node("flat", "Flatten")
    for name, book in WEIGHTS.items():
        maker.coded(name, [2, 3], book, _codes(book, 6), 2.0**-5, alpha=None)
        maker.node(f"{name}.sums", "Linear", "flat", layer=name)
    maker.node("all", "Concat", *(f"{name}.sums" for name in WEIGHTS))
    return maker.packed([[[[1]], [[-1]], [[0.5]]], [[[0]], [[2]], [[1]]]])


@valid
def activation_codebooks() -> Packed:
    """Every family of activation codebooks, unsigned and signed, at and beside decision points."""
    inputs = [
        -1e9,
        -1.5,
        -1.0,
        -0.75,
        -1e-10,
        0,
        0.1,
        0.125,
        0.25,
        0.375,
        0.5,
        0.7,
        0.75,
        1,
        1.5,
        9e9,
    ]
    maker = Maker([len(inputs), 1, 1])
    maker.node("flat", "Flatten")
    alphas = itertools.cycle([1, 0.7, 1.5, 3.0, 0.3])
    for name, (book, members) in ACTIVATIONS.items():
        activation = {"codebook": maker.book(book), "alpha": next(alphas), **members}
        shape = [1, len(inputs)]
        maker.coded(name, shape, SMALL, _codes(SMALL, len(inputs)), activation=activation)
        maker.node(f"{name}.levels", "QuantizeActivation", "flat", layer=name)
        maker.node(f"{name}.sums", "Linear", layer=name)
        maker.node(name, "ScaleBias", scale=0.125, bias=maker.run([0.5]))
    maker.node("all", "Concat", *ACTIVATIONS)
    rounded = struct.unpack(f"<{len(inputs)}f", f32(*inputs))
    return maker.packed([[[[x]] for x in rounded]])


@valid
def scales_of_outputs() -> Packed:
    """A layer whose values are multiplied with a number for every output (version 3)."""
    maker = Maker([2, 1, 1])
    maker.coded("x", [3, 2, 1, 1], SMALL, [1, 5, 2, 4, 7, 0], scales=maker.run([0.7, -2, 2.0**-9]))
    maker.node("sums", "Convolution", layer="x")
    return maker.packed([[[[1]], [[-2]]]], "3")


@valid
def first_and_last_layer() -> Packed:
    """First and last layers of 8 bits, whose inputs stay F32, around a quantized one."""
    maker = Maker([3, 4, 4])
    eight = _book(_bits(7), 127, signed=True)
    maker.coded("first", [2, 3, 3, 3], eight, _codes(eight, 54, 37), 2.0**-7)
    maker.node("first.sums", "Convolution", layer="first", padding=[1, 1])
    maker.node("first", "ScaleBias", scale=maker.run([2.0**-7, -(2.0**-8)]), bias=maker.run([1, 0]))
    maker.node("relu", "Relu")
    activation = {"codebook": maker.book(additive(4, signed=False)), "alpha": 1.7}
    book = additive(3, signed=True)
    maker.coded("middle", [4, 2, 3, 3], book, _codes(book, 72), activation=activation)
    maker.node("middle.levels", "QuantizeActivation", layer="middle")
    maker.node("middle.sums", "Convolution", layer="middle", stride=[2, 2], padding=[1, 1])
    maker.node("middle", "ScaleBias", scale=maker.run([2.0**-9] * 4), bias=maker.run([0, 1, -1, 2]))
    maker.node("mean", "GlobalAveragePool")
    maker.node("flat", "Flatten")
    maker.coded("last", [3, 4], eight, _codes(eight, 12, 91), 2.0**-7)
    maker.node("last.sums", "Linear", layer="last")
    maker.node("logits", "ScaleBias", scale=2.0**-7, bias=maker.run([0.5, 0, -0.5]))
    return maker.packed([image([3, 4, 4]), image([3, 4, 4], 0.5, 3)])


@valid
def convolutions() -> Packed:
    """Strides, paddings, dilations, groups and kernels that differ in height and width."""
    maker = Maker([4, 3, 4])
    activation = {"codebook": maker.book(additive(2, signed=False)), "alpha": 1.0}
    geometries: list[tuple[list[int], Json]] = [
        ([2, 4, 3, 2], {"stride": [2, 1], "padding": [2, 0]}),
        ([4, 2, 2, 3], {"groups": 2, "dilation": [1, 2], "padding": [0, 3]}),
        ([8, 1, 3, 1], {"groups": 4, "dilation": [2, 1], "stride": [1, 3], "padding": [1, 0]}),
        ([1, 4, 2, 2], {"stride": [9, 9], "padding": [1, 1]}),
    ]
    ends = []
    for number, (shape, attributes) in enumerate(geometries):
        count = math.prod(shape)
        layer = maker.coded(f"q{number}", shape, SMALL, _codes(SMALL, count), activation=activation)
        maker.node(f"{layer}.levels", "QuantizeActivation", "image", layer=layer)
        maker.node(f"{layer}.sums", "Convolution", layer=layer, **attributes)
        maker.node(layer, "ScaleBias", scale=0.25)
        ends.append(maker.node(f"{layer}.flat", "Flatten"))
        if number > 1:
            continue
        plain = maker.coded(f"c{number}", shape, SMALL, _codes(SMALL, count, 3))
        maker.node(plain, "Convolution", "image", layer=plain, **attributes)
        weights = [(place * 5 % 9 - 4) / 8 for place in range(count)]
        floating = maker.floats(f"f{number}", shape, weights)
        maker.node(floating, "Convolution", "image", layer=floating, **attributes)
        maker.node(f"sum{number}", "Add", plain, floating)
        ends.append(maker.node(f"sum{number}.flat", "Flatten"))
    maker.node("all", "Concat", *ends)
    return maker.packed([image([4, 3, 4])])
