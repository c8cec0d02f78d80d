"""Codebooks: a sign and a list of digit tables whose addends sum to an integer level.

Every quantizer of the powers-of-two family is one of these. A code is a sign bit (if the codebook
is signed) above one selector field per digit table, the first table in the lowest bits. Each
selector picks one addend, 0 or plus or minus a power of two, from its table; the level is their
sum, negated where the sign bit is set; the value is level x step.

Source of the level sets: Li, Dong and Wang, "Additive Powers-of-Two Quantization", ICLR 2020,
section 2.2, written as integers over a common denominator.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from apot_export.errors import CodebookError
from apot_export.network.bitpack import code_dtype

MAXIMUM_BITS = 16
"""Widest code that the packed format stores."""

MAXIMUM_LEVEL = (1 << 24) - 1
"""Largest magnitude of a level, so that float32 holds every level exactly."""

MAXIMUM_DENOMINATOR = 1 << 23
"""Largest denominator, so that float32 holds every index of a half step exactly."""


@dataclass(frozen=True, kw_only=True)
class Codebook:
    """The meaning of a layer's codes.

    Raises:
        CodebookError: A table's length is not a power of two of at least 2, an addend is neither 0
            nor plus or minus a power of two, the denominator or a level is out of range, or the
            code is empty or wider than 16 bits.

    >>> book = apot(3, signed=True)
    >>> book.bits, book.tables, book.denominator
    (4, ((0, 8, 4, 1), (0, 2)), 10)
    >>> book.levels.tolist()
    [0, 8, 4, 1, 2, 10, 6, 3, 0, -8, -4, -1, -2, -10, -6, -3]
    """

    tables: tuple[tuple[int, ...], ...]
    """Addends of each selector field in units of one step; field 0 has the lowest code bits."""

    denominator: int
    """Number of steps that make up the clipping threshold: step = alpha / denominator."""

    signed: bool
    """Whether the highest code bit negates the level."""

    def __post_init__(self) -> None:
        for position, table in enumerate(self.tables):
            if len(table) < 2 or len(table) & (len(table) - 1):  # noqa: PLR2004 - a field has 1 bit
                raise CodebookError(
                    "A digit table must have a power-of-two length of at least 2.",
                    where=f"tables[{position}]",
                    got=f"{len(table)} entries",
                )
            for addend in table:
                if addend != 0 and abs(addend).bit_count() != 1:
                    raise CodebookError(
                        "An addend must be 0 or plus or minus a power of two.",
                        where=f"tables[{position}]",
                        got=str(addend),
                    )
        if not 1 <= self.denominator <= MAXIMUM_DENOMINATOR:
            raise CodebookError(
                "A codebook's denominator must be positive and at most 2^23.",
                got=str(self.denominator),
            )
        largest = sum(max(map(abs, table)) for table in self.tables)
        if largest > MAXIMUM_LEVEL:
            raise CodebookError(
                "A codebook's levels must stay below 2^24.", got=f"levels up to {largest}"
            )
        if not 1 <= self.bits <= MAXIMUM_BITS:
            raise CodebookError("A code must have between 1 and 16 bits.", got=f"{self.bits} bits")

    @property
    def field_bits(self) -> tuple[int, ...]:
        """Width of each selector field in bits."""
        return tuple(len(table).bit_length() - 1 for table in self.tables)

    @property
    def magnitude_bits(self) -> int:
        """Code bits without the sign."""
        return sum(self.field_bits)

    @property
    def bits(self) -> int:
        """Code bits of one weight or activation, the sign included."""
        return self.magnitude_bits + int(self.signed)

    @property
    def sign_mask(self) -> int:
        """The code bit that negates the level, or 0."""
        return 1 << self.magnitude_bits if self.signed else 0

    @cached_property
    def levels(self) -> NDArray[np.int32]:
        """Level of every code, int32 [2 ** bits], in steps."""
        codes = np.arange(1 << self.bits)
        levels = np.zeros(codes.shape, dtype=np.int32)
        offset = 0
        for table, width in zip(self.tables, self.field_bits, strict=True):
            levels += np.asarray(table, dtype=np.int32)[(codes >> offset) & (len(table) - 1)]
            offset += width
        levels = np.where(codes & self.sign_mask, -levels, levels).astype(np.int32)
        levels.flags.writeable = False
        return levels

    def terms(self) -> tuple[tuple[int, ...], NDArray[np.int64]]:
        """Return the powers k of all addends, and how many of +-2 ** k each code adds.

        >>> powers, terms = apot(3, signed=True).terms()
        >>> powers, terms[[0, 4, 5]].tolist()
        ((0, 1, 2, 3), [[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 1]])
        """
        addends = {abs(addend) for table in self.tables for addend in table if addend}
        powers = sorted(map(power_of_two_shift, addends))
        codes, offset = np.arange(1 << self.bits), 0
        found = np.zeros((codes.size, len(powers)), dtype=np.int64)
        for table, width in zip(self.tables, self.field_bits, strict=True):
            chosen = np.abs(table)[(codes >> offset) & (len(table) - 1)]
            found += chosen[:, None] == np.left_shift(1, powers)
            offset += width
        return tuple(powers), found

    @property
    def code_dtype(self) -> type[np.uint8 | np.uint16]:
        """Smallest unsigned type that holds a code."""
        return code_dtype(self.bits)

    def code_of_level(self) -> dict[int, int]:
        """Map each representable level to the smallest code that has it."""
        levels, codes = np.unique(self.levels, return_index=True)
        return dict(zip(levels.tolist(), codes.tolist(), strict=True))


def apot(magnitude_bits: int, *, signed: bool) -> Codebook:
    """Return the additive powers-of-two codebook of 2 to 6 magnitude bits.

    A weight of b bits has b - 1 magnitude bits and a sign, an activation of b bits has b.

    Raises:
        CodebookError: 1 or more than 6 magnitude bits, where the original's level set degenerates.
    """
    if magnitude_bits not in _APOT_TABLES:
        raise CodebookError(
            "Additive powers-of-two levels are defined for 2 to 6 magnitude bits.",
            expected="weights of 3 to 7 bits or activations of 2 to 6 bits",
            got=f"{magnitude_bits} magnitude bits",
        )
    tables = _APOT_TABLES[magnitude_bits]
    return Codebook(tables=tables, denominator=sum(map(max, tables)), signed=signed)


_APOT_TABLES: dict[int, tuple[tuple[int, ...], ...]] = {
    2: ((0, 4, 2, 1),),
    3: ((0, 8, 4, 1), (0, 2)),
    4: ((0, 32, 8, 2), (0, 16, 4, 1)),
    5: ((0, 64, 16, 2), (0, 32, 8, 1), (0, 4)),
    6: ((0, 256, 32, 4), (0, 128, 16, 2), (0, 64, 8, 1)),
}


def apot_candidates(magnitude_bits: int) -> tuple[int, ...]:
    """Return the levels of `apot` in the order in which the original training code compares them.

    The original keeps its level set in a Python set of floats and takes the first nearest entry,
    so this order, not the sorted one, decides ties.

    Raises:
        CodebookError: No weight of the family has this many magnitude bits.
    """
    if magnitude_bits not in _APOT_CANDIDATES:
        raise CodebookError(
            "Additive powers-of-two weights are defined for 2 to 5 magnitude bits.",
            got=f"{magnitude_bits} magnitude bits",
        )
    return _APOT_CANDIDATES[magnitude_bits]


# fmt: off
_APOT_CANDIDATES: dict[int, tuple[int, ...]] = {
    2: (0, 4, 2, 1),
    3: (0, 2, 4, 8, 10, 6, 1, 3),
    4: (0, 16, 32, 4, 1, 48, 36, 33, 8, 24, 12, 9, 2, 18, 6, 3),
    5: (0, 4, 8, 32, 36, 12, 1, 5, 64, 68, 96, 100, 72, 76, 65, 69,
        14, 3, 7, 34, 38, 10, 48, 20, 16, 52, 24, 28, 17, 21, 2, 6),
}
# fmt: on


def power_of_two(magnitude_bits: int, *, signed: bool) -> Codebook:
    """Return the plain powers-of-two codebook of 2 to 4 magnitude bits.

    >>> power_of_two(2, signed=False).tables
    ((0, 4, 2, 1),)

    Raises:
        CodebookError: Fewer bits, or so many that no accumulator holds their products.
    """
    if magnitude_bits not in _POWER_OF_TWO_CANDIDATES:
        raise CodebookError(
            "Plain powers-of-two levels are defined for 2 to 4 magnitude bits.",
            expected="weights of 3 to 5 bits or activations of 2 to 4 bits",
            got=f"{magnitude_bits} magnitude bits",
        )
    largest = (1 << magnitude_bits) - 2
    table = (0, *(1 << shift for shift in range(largest, -1, -1)))
    return Codebook(tables=(table,), denominator=1 << largest, signed=signed)


def power_of_two_candidates(magnitude_bits: int) -> tuple[int, ...]:
    """Return the levels of `power_of_two` in the order in which the original compares them."""
    return _POWER_OF_TWO_CANDIDATES[magnitude_bits]


# fmt: off
_POWER_OF_TWO_CANDIDATES: dict[int, tuple[int, ...]] = {
    2: (0, 4, 2, 1),
    3: (0, 64, 8, 32, 16, 4, 2, 1),
    4: (0, 16384, 2048, 8192, 4096, 1024, 512, 256, 128, 64, 32, 16, 8, 4, 2, 1),
}
# fmt: on


def uniform(magnitude_bits: int, *, signed: bool, denominator: int | None = None) -> Codebook:
    """Return plain binary digits: levels 0 to 2 ** magnitude_bits - 1.

    Args:
        magnitude_bits: Bits of the magnitude.
        signed: Whether codes carry a sign bit.
        denominator: Steps that make up the threshold; 2 ** magnitude_bits - 1 unless given.

    >>> uniform(2, signed=False).levels.tolist()
    [0, 1, 2, 3]
    """
    if not 1 <= magnitude_bits <= MAXIMUM_BITS - int(signed):
        raise CodebookError(
            "Integers of this width do not fit a code.",
            expected=f"1 to {MAXIMUM_BITS - int(signed)} magnitude bits",
            got=f"{magnitude_bits} magnitude bits",
        )
    return Codebook(
        tables=tuple((0, 1 << bit) for bit in range(magnitude_bits)),
        denominator=(1 << magnitude_bits) - 1 if denominator is None else denominator,
        signed=signed,
    )


def with_levels_below(codebook: Codebook, lowest: int) -> Codebook:
    """Return plain binary digits with fields of negative powers above them, down to a level.

    Each integer from the lowest level to the codebook's highest has one code. Levels reach
    `lowest`, or as far as codes of 16 bits do.

    >>> with_levels_below(uniform(2, signed=False), -5).levels.tolist()
    [0, 1, 2, 3, -4, -3, -2, -1, -8, -7, -6, -5, -12, -11, -10, -9]
    """
    tables = codebook.tables
    while len(tables) < MAXIMUM_BITS and lowest < sum(min(table) for table in tables):
        tables += ((0, -1 << len(tables)),)
    return dataclasses.replace(codebook, tables=tables)


def power_of_two_shift(addend: int) -> int:
    """Return log2 of a power of two's magnitude.

    >>> [power_of_two_shift(addend) for addend in (1, -8, 64)]
    [0, 3, 6]
    """
    return abs(addend).bit_length() - 1


def distinct_levels(codebook: Codebook) -> NDArray[np.int32]:
    """Return the codebook's levels without repetition, ascending, int32."""
    return np.unique(codebook.levels)


def storage_bytes(shape: tuple[int, ...], bits: int) -> int:
    """Return the bytes of a packed tensor: ceil(elements x bits / 8).

    >>> storage_bytes((3, 3), 3)
    4
    """
    return (math.prod(shape) * bits + 7) // 8
