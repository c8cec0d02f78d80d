"""Dense bit packing: code i occupies bits [i * b, (i + 1) * b) of a little-endian bit stream.

Bit k of the stream is bit k mod 8 (the least significant is 0) of byte k div 8. The last byte is
filled with zeros.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.uint8] | NDArray[np.uint16]

BLOCK = 1 << 13
"""Codes that are decoded at once: what that makes beside its result stays small, and in a cache."""
_GROUP = 8
"""Codes that end on a byte boundary together, whatever their width."""


def code_dtype(bits: int) -> type[np.uint8 | np.uint16]:
    """Return the smallest unsigned type that holds a code of so many bits, at most 16."""
    return np.uint8 if bits <= 8 else np.uint16  # noqa: PLR2004 - bits of a byte


def room_for(count: int, bits: int) -> Codes:
    """Return an array for so many codes, [count], whose numbers are arbitrary."""
    return np.empty(count, np.uint8) if bits <= _GROUP else np.empty(count, np.uint16)


def pack(codes: Codes, bits: int) -> NDArray[np.uint8]:
    """Pack codes of 1 to 16 bits each, in C order: return uint8 [ceil(codes.size * bits / 8)].

    Raises:
        ValueError: A code does not fit.

    >>> pack(np.array([1, 2, 3], dtype=np.uint8), 3).tolist()
    [209, 0]
    """
    flat = codes.reshape(-1)
    if flat.size and int(flat.max()) >> bits:
        raise ValueError(f"code {int(flat.max())} does not fit {bits} bits")
    size = (flat.size * bits + 7) // 8
    if bits == _GROUP:
        return flat.astype(np.uint8)
    padded = np.zeros(-(-flat.size // _GROUP) * _GROUP, dtype=flat.dtype)
    padded[: flat.size] = flat
    groups = padded.reshape(-1, _GROUP)
    if bits < _GROUP:
        # Eight codes of fewer than eight bits fill one 64-bit word: no detour over single bits.
        words = np.zeros(groups.shape[0], dtype="<u8")
        for position in range(_GROUP):
            words |= groups[:, position].astype("<u8") << np.uint64(position * bits)
        return words.view(np.uint8).reshape(-1, _GROUP)[:, :bits].reshape(-1)[:size].copy()
    single_bits = ((padded[:, None] >> np.arange(bits, dtype=flat.dtype)) & 1).astype(np.uint8)
    return np.packbits(single_bits.reshape(-1), bitorder="little")[:size].copy()


def unpack(packed: NDArray[np.uint8], bits: int, count: int) -> Codes:
    """Undo `pack`: return uint8 [count], or uint16 [count] where bits > 8.

    Raises:
        ValueError: The number of bytes does not fit, or the filling bits are not zero.

    >>> unpack(np.array([209, 0], dtype=np.uint8), 3, 3).tolist()
    [1, 2, 3]
    """
    size = (count * bits + 7) // 8
    if packed.shape != (size,):
        raise ValueError(f"{count} codes of {bits} bits take {size} bytes, got {packed.shape}")
    filling = size * 8 - count * bits
    if filling and int(packed[-1]) >> (8 - filling):
        raise ValueError("the filling bits after the last code are not zero")
    if bits == _GROUP:
        return packed.copy()
    codes = room_for(count, bits)
    for first in range(0, count, BLOCK):
        some = codes[first : first + BLOCK]
        begin = first * bits // 8
        some[:] = _unpacked(packed[begin : begin + (some.size * bits + 7) // 8], bits, some.size)
    return codes


def _unpacked(packed: NDArray[np.uint8], bits: int, count: int) -> Codes:
    size, groups = packed.size, -(-count // _GROUP)
    if bits < _GROUP:
        padded = np.zeros(groups * bits, dtype=np.uint8)
        padded[:size] = packed
        octets = np.zeros((groups, _GROUP), dtype=np.uint8)
        octets[:, :bits] = padded.reshape(groups, bits)
        words = octets.view("<u8").reshape(-1)
        codes = np.empty((groups, _GROUP), dtype=np.uint8)
        mask = np.uint64((1 << bits) - 1)
        for position in range(_GROUP):
            codes[:, position] = (words >> np.uint64(position * bits)) & mask
        return codes.reshape(-1)[:count]
    single_bits = np.unpackbits(packed, count=count * bits, bitorder="little")
    weights = (1 << np.arange(bits, dtype=np.uint32)).astype(np.uint32)
    return (single_bits.reshape(count, bits) @ weights).astype(np.uint16)
