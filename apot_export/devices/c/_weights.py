"""How a layer's weights are summed: as groups of inputs that one number multiplies."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apot_export.errors import IntegerError
from apot_export.integer.fixed_point import signed_digits
from apot_export.integer.lowering import dyadic_coordinates
from apot_export.network.bitpack import pack
from apot_export.network.layers import CodedLayer, Layer, PlaneLayer
from apot_export.network.planes import Planes, pack_counts

_SUBTRACTED = 0x80
_POWER = 0x40
_MOST_MAGNITUDES = 16
"""Groups are counted and found on the stack."""
_MOST_TAPS = 1024
"""Inputs of the sign vectors that are found at once, if one has no more."""
_TAP_COST, _TERM_COST, _GROUP_COST = 3, 2, 5
"""Instructions of RV32I for a word: a tap, a power of a group, a group."""
_CODE_COST, _SIGN_COST = 36, 20
"""Instructions of RV32I that decode a weight, or a sign."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Weights:
    """A layer's weights: groups of inputs that are added or subtracted, then multiplied."""

    codes: NDArray[np.uint8]
    """Bit stream of the codes, or of the numbers of sign vectors."""
    code_bits: int
    terms: NDArray[np.uint8]
    """[groups, width]: 64 + power, with 128 where subtracted, and a last 0."""
    groups: int
    """How many are found at once."""
    cost: float
    """Instructions a word for an average output, without taking lanes apart."""
    decoding: int
    """Instructions that decode all of them once."""
    operations: tuple[int, int]
    """Additions of numbers and shifts of sums for all outputs, one position each."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Codes(Weights):
    """Codes: a group has the weights of one magnitude or power of two."""

    entries: NDArray[np.uint8]
    """[codes, width]: 1 + 2 * group for each code's groups, one more where subtracted; 0: none."""
    members: NDArray[np.int64]
    """[codes, 2 * groups]: how often a code is added to, and subtracted from, each group."""
    layer: CodedLayer

    def starts(self, chunk: int) -> tuple[NDArray[np.int64], int]:
        """Return where every group's taps begin, added and subtracted ones, and the room for all.

        There is room for the most that an output has in a chunk of input channels.
        """
        shape = self.layer.shape
        codes = self.layer.codes.reshape(*shape[:2], -1)
        most = np.zeros(self.members.shape[1], dtype=np.int64)
        for first in range(0, shape[1], chunk):
            for row in codes[:, first : first + chunk].reshape(len(codes), -1):
                counts = np.bincount(row, minlength=len(self.members))
                most = np.maximum(most, counts @ self.members)
        ends = np.cumsum(most)
        return ends - most, int(ends[-1]) if most.size else 0


@dataclass(frozen=True, kw_only=True, eq=False)
class SignVectors(Weights):
    """Sign vectors: each is a group, with a line of terms of its own."""

    signs: NDArray[np.uint8]
    """Bit stream, a bit for every weight of every sign vector: 1 where it is added."""
    size: int
    """Weights of a sign vector."""
    of_output: int
    """Runs of so many weights in an output, of which each has any number of sign vectors."""
    position_major: bool
    """Whether these run over input channels at a place of the kernel."""

    def starts(self, chunk: int) -> tuple[NDArray[np.int64], int]:  # noqa: ARG002 - as of codes
        """Return no starts, as groups are told apart by their size, and the room for all taps."""
        return np.zeros(0, dtype=np.int64), self.groups * self.size


def grouped_weights(coded: Layer) -> Codes | SignVectors:
    """Group a layer's weights: sign vectors one by one, codes in whichever way takes less.

    Raises:
        IntegerError: The weights are no integers.
    """
    if isinstance(coded, PlaneLayer):
        return _sign_vectors(coded)
    if not isinstance(coded, CodedLayer):
        raise IntegerError("A layer's weights are not integers.", where=coded.name)
    levels = coded.codebook.levels.astype(np.int64)
    magnitudes = [int(number) for number in np.unique(np.abs(levels)) if number]
    powers = sorted({shift for number in magnitudes for shift, _ in signed_digits(number)})
    by_power = [[(powers.index(k), s) for k, s in signed_digits(int(level))] for level in levels]
    forms = [_form(coded, by_power, [1 << power for power in powers])]
    if len(magnitudes) <= _MOST_MAGNITUDES:
        signs = [int(np.sign(level)) for level in levels]
        by_magnitude = [
            [(magnitudes.index(abs(int(level))), sign)] if level else []
            for level, sign in zip(levels, signs, strict=True)
        ]
        forms.append(_form(coded, by_magnitude, magnitudes))
    return min(forms, key=lambda form: form.cost)


def _form(
    coded: CodedLayer, of_codes: list[list[tuple[int, int]]], factors: Sequence[int]
) -> Codes:
    width = 1 << (max(1, *map(len, of_codes)) - 1).bit_length()
    entries = np.zeros((len(of_codes), width), dtype=np.uint8)
    members = np.zeros((len(of_codes), 2 * len(factors)), dtype=np.int64)
    for code, groups in enumerate(of_codes):
        for place, (group, sign) in enumerate(groups):
            found = 2 * group + (sign < 0)
            entries[code, place] = 1 + found
            members[code, found] = 1
    terms, powers = _terms(factors)
    of_output = coded.tally(members)
    used = of_output.reshape(len(of_output), len(factors), 2).any(axis=2)
    taps, shifts = int(of_output.sum()), int((used * powers).sum())
    return Codes(
        codes=coded.packed,
        code_bits=coded.codebook.bits,
        entries=entries,
        terms=terms,
        groups=len(terms),
        members=members,
        layer=coded,
        cost=_cost(taps, int(used.sum()), shifts, len(of_output)),
        decoding=_CODE_COST * math.prod(coded.shape),
        operations=(taps + shifts, shifts),
    )


def _terms(factors: Sequence[int]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the terms of every group by its factor, and how many each has."""
    digits = [signed_digits(factor) for factor in factors]
    powers = np.array(list(map(len, digits)), dtype=np.int64)
    terms = np.zeros((len(factors) or 1, int(powers.max(initial=0)) + 1), dtype=np.uint8)
    for row, found in zip(terms, digits, strict=False):
        row[: len(found)] = [_POWER | k | (_SUBTRACTED if sign < 0 else 0) for k, sign in found]
    return terms, powers


def _cost(taps: int, groups: int, shifts: int, outputs: int) -> float:
    return (_TAP_COST * taps + _GROUP_COST * groups + _TERM_COST * shifts) / outputs


def _sign_vectors(coded: PlaneLayer) -> SignVectors:
    of_output = math.prod(coded.planes.shape[1:])
    planes = _cut(coded.planes, math.gcd(of_output, coded.planes.group_size))
    size = planes.group_size
    coordinates, _ = dyadic_coordinates(PlaneLayer(name=coded.name, planes=planes))
    terms, powers = _terms([int(one) for one in coordinates])
    counts, count_bits = pack_counts(planes.counts)
    taps, shifts = planes.filters * size, int(powers.sum())
    return SignVectors(
        codes=counts,
        code_bits=count_bits,
        signs=planes.packed,
        terms=terms,
        groups=min(max(1, _MOST_TAPS // size), _MOST_MAGNITUDES),
        size=size,
        of_output=of_output // size,
        position_major=planes.position_major,
        cost=_cost(taps, planes.filters, shifts, planes.shape[0]),
        decoding=_SIGN_COST * max(taps, planes.counts.size * size),
        operations=(taps + shifts, shifts),
    )


def _cut(planes: Planes, size: int) -> Planes:
    """Cut groups into smaller ones, so that none reaches into another output."""
    pieces = planes.group_size // size
    if pieces == 1:
        return planes
    ends = np.cumsum(planes.counts, dtype=np.int64)
    bases = [
        np.tile(np.arange(end - n, end), pieces) for end, n in zip(ends, planes.counts, strict=True)
    ]
    places = [np.repeat(np.arange(pieces), n) for n in planes.counts]
    order, place = np.concatenate(bases), np.concatenate(places)
    signs = np.unpackbits(
        planes.packed, count=planes.filters * planes.group_size, bitorder="little"
    )
    assert planes.terms is not None
    return dataclasses.replace(
        planes,
        group_size=size,
        counts=np.repeat(planes.counts, pieces),
        packed=pack(signs.reshape(-1, pieces, size)[order, place], 1),
        coordinates=planes.coordinates[order],
        terms=planes.terms[order],
    )
