"""Layers (2.3, 3): codes, codebooks, sign vectors and activation quantizers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._budget import TABLE_ENTRIES, WEIGHTS, Budget
from ._codes import read_codes, unpack
from ._members import ACTIVATION, CODEBOOK, LAYERS, members, require

Floats = NDArray[np.float32]
_WIDEST_CODE = 16
_LEVELS_BELOW = 2**24
_EXACT_BITS = 53


class Tensors:
    """The tensors of a file, each to be taken once, and the runs of its small numbers (2.4)."""

    def __init__(
        self, tensors: dict[str, NDArray[Any]], version: str = "2", budget: Budget | None = None
    ) -> None:
        self.budget = budget or Budget(0, None)
        self._tensors = dict(tensors)
        if "integer" in tensors:
            self.take("integer", np.uint8, 1)
        self._numbers = np.zeros(0, np.float32)
        if "parameters" in tensors:
            self._numbers = self.take("parameters", np.float32, 1)
        self._runs: list[list[int]] = []
        self._version = version

    def take(self, name: str, dtype: type, *axes: int) -> NDArray[Any]:
        """Take the tensor of a name, dtype and number of axes."""
        require(name in self._tensors, f"the file lacks the tensor {name}")
        tensor = self._tensors.pop(name)
        fine = tensor.dtype == dtype and tensor.ndim in axes
        require(fine, f"tensor {name} is {tensor.dtype} {tensor.shape}")
        return tensor

    def numbers(self, where: str, stated: list[int] | None, count: int | None = None) -> Floats:
        """Take a run `[begin, end]` of `parameters`, of `count` numbers if that is known.

        Version 1 states no run: it begins where the one before ends, and has `[count]` numbers.
        """
        run = stated or []
        if self._version == "1":
            require(len(run) == int(count is None), f"{where}: a run in a file of version 1")
            begin = self._runs[-1][1] if self._runs else 0
            run = [begin, begin + (run[0] if count is None else count)]
        require(len(run) == 2, f"{where}: no run of parameters")  # noqa: PLR2004
        begin, end = run
        fine = begin <= end <= len(self._numbers) and count in {None, end - begin}
        require(fine, f"{where}: no {count or 'such'} parameters from {begin} to {end}")
        self._runs.append([begin, end])
        return self._numbers[begin:end]

    def finish(self) -> None:
        """Require that nothing is left over, and that no parameter counts twice."""
        begins = [begin for begin, _ in sorted(self._runs)]
        ends = [end for _, end in sorted(self._runs)]
        fine = [*begins, len(self._numbers)] == [0, *ends]
        require(fine, "the runs of parameters overlap, or leave some of them out")
        require(not self._tensors, f"tensors of no layer: {', '.join(self._tensors)}")


@dataclass(frozen=True, eq=False)
class Codebook:
    """What codes mean: one selector field a table, lowest bits first, and perhaps a sign (3.2)."""

    tables: list[list[int]]
    denominator: int
    signed: bool

    @property
    def bits(self) -> int:
        """Width of a code."""
        return sum(len(table).bit_length() - 1 for table in self.tables) + self.signed

    def addends(self, code: int) -> list[int]:
        """Return the signed powers of two that a code adds; their sum is its level (3.3)."""
        chosen = []
        for table in self.tables:
            code, field = divmod(code, len(table))
            chosen.append(table[field])
        return [-addend if code else addend for addend in chosen if addend]

    def levels(self) -> NDArray[np.int64]:
        """Return the level of every code."""
        rest, levels = np.arange(2**self.bits), np.zeros(2**self.bits, np.int64)
        for table in self.tables:
            levels += np.array(table)[rest % len(table)]
            rest //= len(table)
        return np.where(rest, -levels, levels)


def read_codebook(value: Any, where: str, budget: Budget) -> Codebook:
    """Check and return a codebook (2.2)."""
    book = Codebook(**members(value, where, CODEBOOK))
    for table in book.tables:
        fine = len(table) > 1 and _is_power_of_two(len(table))
        require(fine, f"{where}: a table of {len(table)} entries")
        fine = all(addend == 0 or _is_power_of_two(abs(addend)) for addend in table)
        require(fine, f"{where}: an entry is no power of two")
    require(1 <= book.bits <= _WIDEST_CODE, f"{where}: codes of {book.bits} bits")
    largest = sum(max(abs(addend) for addend in table) for table in book.tables)
    require(largest < _LEVELS_BELOW, f"{where}: levels up to {largest}")
    budget.take(TABLE_ENTRIES, 2**book.bits, where)
    return book


def _is_power_of_two(value: int) -> bool:
    return value & (value - 1) == 0


def float32(number: float) -> np.float32:
    """Round to F32, where a number may become infinite."""
    with np.errstate(all="ignore"):
        return np.float32(number)


class Quantizer(NamedTuple):
    """An activation quantizer (3.5).

    A level is table[min(max(floor(x * scale), first), last) - first].
    """

    scale: np.float32
    first: int
    last: int
    table: NDArray[np.int32]


def _read_quantizer(value: Any, where: str, books: list[Codebook], budget: Budget) -> Quantizer:
    record = members(value, where, ACTIVATION)
    require(record["codebook"] < len(books), f"{where}: no such codebook")
    book = books[record["codebook"]]
    levels = np.unique(book.levels())
    require(levels[0] >= -(2**23), f"{where}: an activation codebook with levels below -2^23")
    first = 2 * min(0, int(levels[0]))
    last = 2 * (record["input_denominator"] or book.denominator)
    alpha = float32(record["alpha"])
    with np.errstate(all="ignore"):
        scale = np.float32(last) / alpha
    fine = 0 < alpha < np.inf and scale < np.inf
    require(fine, f"{where}: the threshold {record['alpha']} is not positive and finite enough")
    # Two levels part at half their sum: at half step number level + next level.
    budget.take(TABLE_ENTRIES, last - first, where)
    begins = np.clip(levels[1:] + levels[:-1], first, last + 1)
    counts = np.diff([first, *begins, last + 1])
    table = np.repeat(levels.astype(np.int32), counts)
    return Quantizer(scale, first, last, table)


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """A weight tensor."""

    factors: NDArray[Any]
    """What the layer multiplies with (4.2): levels if it is coded, else float32 weights."""
    codes: NDArray[np.uint16] | None = None
    codebook: Codebook | None = None
    values: Floats | None = None
    """The float32 weight of every code (3.4)."""
    scales: Floats | None = None
    """What the values of each output are multiplied with (3.4)."""
    quantizer: Quantizer | None = None
    operands: dict[bool, NDArray[Any]] = field(default_factory=dict)
    """What nodes compute with: the quantizer's table (True), and the factors (False)."""

    def weights(self) -> Floats:
        """Return the float32 weights, bit for bit those that were trained."""
        if self.values is None:
            return self.factors
        weights = np.asarray(self.values[self.codes])
        if self.scales is None:
            return weights
        return weights * self.scales.reshape(-1, *[1] * (weights.ndim - 1))


def read_layer(value: Any, name: str, books: list[Codebook], tensors: Tensors) -> Layer:
    """Check and return the layer of a name."""
    where = f"layer {name}"
    fine = type(value) is dict and type(value.get("kind")) is str and value["kind"] in LAYERS
    require(fine, f"{where} is of no known kind")
    layer = members(value, where, LAYERS[value["kind"]])
    if layer["kind"] == "float":
        weights = tensors.take(f"{name}.weight", np.float32, 2, 4)
        tensors.budget.take(WEIGHTS, weights.size, where)
        return Layer(factors=weights)
    count = math.prod(layer["shape"])
    tensors.budget.take(WEIGHTS, count, where)
    if layer["kind"] == "planes":
        return Layer(factors=_read_planes(layer, name, tensors))
    require(layer["codebook"] < len(books), f"{where}: no such codebook")
    book = books[layer["codebook"]]
    stream = tensors.take(f"{name}.codes", np.uint8, 1)
    codes = read_codes(stream, layer["storage"], book.bits, count, where).reshape(layer["shape"])
    return Layer(
        factors=book.levels().astype(np.int32)[codes],
        codes=codes,
        codebook=book,
        values=tensors.numbers(where, layer["values"], 2**book.bits),
        scales=None
        if layer["scales"] is None
        else tensors.numbers(where, layer["scales"], layer["shape"][0]),
        quantizer=None
        if layer["activation"] is None
        else _read_quantizer(layer["activation"], where, books, tensors.budget),
    )


def _read_planes(layer: dict[str, Any], name: str, tensors: Tensors) -> Floats:
    """Sum the scaled sign vectors of every group (3.6)."""
    shape, size = layer["shape"], layer["group_size"]
    groups, rest = divmod(math.prod(shape), size)
    fine = rest == 0 and (len(shape) == 4 or not layer["position_major"])  # noqa: PLR2004
    require(fine, f"layer {name}: groups that do not fit its shape")
    planes = tensors.take(f"{name}.planes", np.uint8, 1)
    split = -(-groups * layer["count_bits"] // 8)
    counts = unpack(planes[:split], layer["count_bits"], groups, name).astype(np.int64)
    bases = int(counts.sum())
    signs = unpack(planes[split:], 1, bases * size, name).reshape(bases, size)
    coordinates = _read_coordinates(bases, layer, name, tensors)
    first = np.cumsum(counts) - counts
    weights = np.zeros((groups, size), np.float32)
    for place in range(int(counts.max())):
        rows = np.flatnonzero(counts > place)
        basis = first[rows] + place
        scale = coordinates[basis, np.newaxis]
        weights[rows] += np.where(signs[basis] == 1, scale, -scale)
    if layer["position_major"]:
        outputs, inputs, height, width = shape
        weights = weights.reshape(outputs, height, width, inputs).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(weights.reshape(shape))


def _read_coordinates(bases: int, layer: dict[str, Any], name: str, tensors: Tensors) -> Floats:
    count, run = layer["terms"], layer["coordinates"]
    if count == 0:
        return tensors.numbers(name, run, bases)
    require(run is None, f"layer {name} has both terms and coordinates")
    if bases == 0:
        return np.zeros(0, np.float32)
    terms = tensors.take(f"{name}.terms", np.uint8, 2)
    require(terms.shape == (bases, count), f"tensor {name}.terms has the shape {terms.shape}")
    exponents = (terms & 0x7F).astype(np.int64) - 64
    addends = np.where(terms & 0x80, -1.0, 1.0) * np.exp2(exponents.astype(np.float64))
    addends[terms == 0] = 0
    used = exponents[terms != 0]
    if used.size and int(used.max() - used.min()) + count.bit_length() >= _EXACT_BITS:
        return np.array([_nearest(sum(map(Fraction, row))) for row in addends.tolist()])
    return addends.sum(axis=1).astype(np.float32)  # exact in float64, then rounded once


def _nearest(value: Fraction | int) -> np.float32:
    """Round an exact number to F32 once; no number of terms makes it subnormal."""
    if value == 0:
        return np.float32(0)
    exponent = math.frexp(float(abs(value)))[1] - 24
    scaled = value / Fraction(2) ** exponent
    return np.float32(math.ldexp(round(scaled), exponent))
