"""Codes as digits: a layer that uses n of its codes stores as many digits a byte as fit.

Three codes, as ternary weights have, take 1.6 bits each: five digits of base 3 a byte. FORMAT.md,
section 3.7, is the specification.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from apot_export.network.bitpack import Codes, code_dtype

_BYTE_VALUES = 1 << 8
LEAST_BASE, MOST_BASE = 2, 16


def digits_of_a_byte(base: int) -> int:
    """Return how many digits of a base a byte holds.

    >>> [digits_of_a_byte(base) for base in (2, 3, 5, 6, 16)]
    [8, 5, 3, 3, 2]
    """
    return next(count for count in range(8, 0, -1) if base**count <= _BYTE_VALUES)


def digit_bytes(base: int, count: int) -> int:
    """Return the bytes of so many digits."""
    return -(-count // digits_of_a_byte(base))


def encode_digits(codes: Codes, used: Sequence[int]) -> NDArray[np.uint8]:
    """Store codes as digits, uint8 [bytes], the first digit of a byte the least significant.

    `used` are the codes that occur, ascending, 2 to 16: the meaning of the digits 0, 1, ...

    >>> encode_digits(np.array([0, 1, 3, 3, 0, 1], dtype=np.uint8), [0, 1, 3]).tolist()
    [75, 1]
    """
    each = digits_of_a_byte(len(used))
    digits = np.zeros(digit_bytes(len(used), codes.size) * each, dtype=np.uint8)
    digits[: codes.size] = np.searchsorted(np.asarray(used), codes.reshape(-1))
    weights = np.array([len(used) ** position for position in range(each)], dtype=np.uint8)
    return np.asarray((digits.reshape(-1, each) * weights).sum(axis=1), dtype=np.uint8)


def decode_digits(content: NDArray[np.uint8], used: Sequence[int], bits: int, count: int) -> Codes:
    """Undo `encode_digits`: return uint8 [count], or uint16 [count] where bits > 8.

    Raises:
        ValueError: The number of bytes does not fit, a byte is too large for its digits, or a digit
            after the last code is not 0.

    >>> decode_digits(np.array([75, 1], dtype=np.uint8), [0, 1, 3], 2, 6).tolist()
    [0, 1, 3, 3, 0, 1]
    """
    base = len(used)
    each = digits_of_a_byte(base)
    if content.shape != (digit_bytes(base, count),):
        raise ValueError(f"{count} digits of base {base} in {content.shape} bytes")
    if int(content.max()) >= base**each:
        raise ValueError(f"a byte of {int(content.max())} for {each} digits of base {base}")
    rest = count - (content.size - 1) * each
    if int(content[-1]) >= base**rest:
        raise ValueError("digits after the last code that are not zero")
    dtype = code_dtype(bits)
    values = np.arange(_BYTE_VALUES)
    digits = np.stack([values // base**position % base for position in range(each)], axis=1)
    codes_of_byte = np.asarray(used, dtype=dtype)[digits]
    codes: Codes = codes_of_byte[content].reshape(-1)[:count]
    return codes
