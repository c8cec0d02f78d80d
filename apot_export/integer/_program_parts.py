"""The parts of an integer program in bytes: values, post-operations and weights."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apot_export.errors import IntegerError
from apot_export.integer.fixed_point import signed_digits
from apot_export.integer.network import (
    Clamp,
    IntegerLayer,
    Interval,
    Quantize,
    Requantize,
)
from apot_export.network.layers import CodedLayer, Layer, PlaneLayer
from apot_export.network.memory_plan import rounded_up
from apot_export.network.planes import pack_counts

LEVELS, NARROW, WIDE, IMAGE = range(4)
"""Kinds of values: uint8, int32, int64, and the caller's image, which is int32."""
SIZES = {LEVELS: 1, NARROW: 4, WIDE: 8}
"""Bytes of one number of a kind."""
_STORE, _REQUANTIZE, _QUANTIZE = range(3)
_NARROW_BITS = 32
_WIDE_BITS = 64
_LEVEL_LIMIT = 255
_TERM_BIAS = 64
_NEGATIVE = 0x80
_DIGIT = 0x40

Finishing = Requantize | Quantize | Clamp


class Address(NamedTuple):
    """Where a value lies, as instructions name it."""

    kind: int
    offset: int
    """In bytes."""


@dataclass(frozen=True, kw_only=True)
class WeightTensors:
    """The tensors of the packed file that hold the weights."""

    tensors: Mapping[str, NDArray[Any]]
    positions: Mapping[str, int]
    """Of the first byte of each tensor in the file's data."""

    def part(self, name: str) -> bytes:
        """Return position, size and checksum of a tensor; zeros where there is none."""
        if name not in self.tensors:
            return words(0, 0, 0)
        content = self.tensors[name].tobytes()
        return words(self.positions[name], len(content), zlib.crc32(content))


def words(*numbers: int) -> bytes:
    """Return numbers as unsigned 32-bit words.

    Raises:
        IntegerError: One does not fit.
    """
    try:
        return struct.pack(f"<{len(numbers)}I", *numbers)
    except struct.error as error:
        raise IntegerError(
            "The network is too large for an integer program.",
            expected="sizes below 2^32",
            got=str(max(numbers, key=abs)),
        ) from error


def kind_of(interval: Interval) -> int:
    """Return the smallest kind that holds every number of an interval."""
    if interval.low >= 0 and interval.high <= _LEVEL_LIMIT:
        return LEVELS
    return NARROW if interval.bits <= _NARROW_BITS else WIDE


# --- post-operations ------------------------------------------------------------------------------


def finishing_bytes(operation: Finishing, address: Address) -> bytes:
    """Return what is done to a channel of results, and where it goes."""
    if isinstance(operation, Requantize):
        return words(_REQUANTIZE, *address) + _requantize(operation)
    if isinstance(operation, Quantize):
        return words(_QUANTIZE, *address) + _quantize(operation)
    widest = np.iinfo(np.int64)
    low = widest.min if operation.low is None else operation.low
    high = widest.max if operation.high is None else operation.high
    return words(_STORE, *address) + struct.pack("<qq", low, high)


def thresholds_scratch(operation: Finishing) -> int:
    """Return the bytes of scratch memory that hold one channel's thresholds."""
    return operation.thresholds.shape[1] * 8 if isinstance(operation, Quantize) else 0


def _requantize(operation: Requantize) -> bytes:
    multipliers, offsets = np.broadcast_arrays(operation.multiplier, operation.offset)
    limits = np.iinfo(np.int32)
    if multipliers.min() < limits.min or multipliers.max() > limits.max:
        raise IntegerError(
            "A multiplier has more than 32 bits.", got=str(int(np.abs(multipliers).max()))
        )
    forms = [signed_digits(int(number)) for number in multipliers]
    count = max(map(len, forms))
    parts = [words(len(forms), operation.shift, count)]
    for multiplier, offset, form in zip(multipliers, offsets, forms, strict=True):
        digits = bytes(_DIGIT | shift | (_NEGATIVE if sign < 0 else 0) for shift, sign in form)
        parts.append(struct.pack("<iq", multiplier, offset) + digits.ljust(count, b"\0"))
    return b"".join(parts)


def _quantize(operation: Quantize) -> bytes:
    thresholds, directions = operation.thresholds, operation.direction
    channels, count = max(thresholds.shape[0], directions.size), thresholds.shape[1]
    rows = np.broadcast_to(thresholds, (channels, count))
    reached = Interval(low=int(rows.min(initial=0)), high=int(rows.max(initial=0)))
    width = -(-reached.bits // 8)
    numbers = rows.astype("<i8")[..., None].view(np.uint8)[..., :width].reshape(channels, -1)
    downwards = np.broadcast_to(directions < 0, (channels,)).astype(np.uint8)
    records = np.concatenate([downwards[:, None], numbers], axis=1)
    levels = operation.levels.astype("<i4").tobytes()
    return words(channels, count, width) + levels + records.tobytes()


# --- weights --------------------------------------------------------------------------------------


def sum_kind(layer: IntegerLayer, coded: Layer) -> int:
    """Return the kind of a layer's accumulators."""
    wide = layer.bound >= 1 << (_NARROW_BITS - 1)
    if isinstance(coded, PlaneLayer) and coded.planes.terms is not None:
        used = coded.planes.terms[coded.planes.terms != 0]
        exponents = (used & (_NEGATIVE - 1)).astype(np.int64) - _TERM_BIAS
        largest = int(exponents.max(initial=-layer.fraction_bits)) + layer.fraction_bits
        if largest >= _WIDE_BITS:
            raise IntegerError(
                "A term of a coordinate is too large for an integer program.",
                where=layer.name,
                expected="less than 2^64 times the smallest one",
                got=f"2^{largest} times",
            )
        wide = wide or largest >= _NARROW_BITS
    return WIDE if wide else NARROW


def weight_bytes(layer: IntegerLayer, coded: Layer, stored: WeightTensors) -> bytes:
    """Return where a layer's weights are in the file, and what they mean."""
    if isinstance(coded, PlaneLayer) and coded.planes.terms is not None:
        return _plane_bytes(layer, coded, stored)
    if isinstance(coded, CodedLayer):
        return _code_bytes(coded, stored)
    raise IntegerError("A layer's weights are not integers.", where=layer.name)


def _code_bytes(coded: CodedLayer, stored: WeightTensors) -> bytes:
    book = coded.codebook
    parts = [stored.part(f"{coded.name}.codes"), words(int(book.signed), len(book.tables))]
    for table, width in zip(book.tables, book.field_bits, strict=True):
        parts.append(bytes([width, *map(_addend, table)]))
    return b"".join(parts)


def _addend(addend: int) -> int:
    if not addend:
        return 0
    sign = _NEGATIVE if addend < 0 else 0
    return sign | (_TERM_BIAS + abs(addend).bit_length() - 1)


def _plane_bytes(layer: IntegerLayer, coded: PlaneLayer, stored: WeightTensors) -> bytes:
    planes = coded.planes
    columns = 0 if planes.terms is None else planes.terms.shape[1]
    _, count_bits = pack_counts(planes.counts)
    return (
        stored.part(f"{coded.name}.planes")
        + stored.part(f"{coded.name}.terms")
        + words(
            planes.group_size,
            planes.counts.size,
            count_bits,
            int(planes.position_major),
            columns,
            layer.fraction_bits,
        )
    )


def taps_scratch(kernel: tuple[int, int]) -> int:
    """Return the bytes that hold where each row and column of a kernel reaches."""
    return rounded_up(sum(kernel) * 12)
