"""How a layer's codes are stored (3.1, 3.7, 3.8): as bits, as digits or entropy-coded."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._members import STORAGES, members, require

Bytes = NDArray[np.uint8]
Codes = NDArray[np.uint16]
_CODE = np.dtype("<u2")
_STATE = np.dtype("<u4")
_WORD_BITS = 16
_LOWEST_STATE = 2**16
_PRECISIONS = range(4, 16)
_MOST_CODES_A_BYTE = 1024
_MOST_TURNS = 65536


def read_codes(stream: Bytes, storage: Any, bits: int, count: int, where: str) -> Codes:
    """Read `count` codes of a layer, stored as the layer's member `storage` says (2.3)."""
    if storage is None:
        return unpack(stream, bits, count, where)
    fine = len(storage) == 1 and storage.keys() <= STORAGES.keys()
    require(fine, f"{where}: a storage of {', '.join(storage) or 'no kind'}")
    ((kind, record),) = ((kind, STORAGES[kind]) for kind in storage)
    value = members(storage, f"{where}: storage", record)[kind]
    if kind == "digits":
        return _read_digits(stream, value, bits, count, where)
    precision, lanes = value
    fine = precision in _PRECISIONS
    require(fine, f"{where}: frequencies of {precision} bits instead of 4 to 15")
    return _read_entropy(stream, precision, lanes, bits, count, where)


def unpack(stream: Bytes, width: int, count: int, where: str) -> Codes:
    """Read `count` codes of `width` bits, lowest bit first, without gaps (3.1)."""
    fine = len(stream) == -(-width * count // 8)
    require(fine, f"{where}: {count} codes of {width} bits are not {len(stream)} bytes")
    bits = np.unpackbits(stream, bitorder="little")
    require(not bits[width * count :].any(), f"{where}: bits after the last code are not 0")
    places = bits[: width * count].reshape(count, width)
    codes = np.zeros(count, np.uint16)
    for place in range(width):
        codes |= places[:, place].astype(np.uint16) << np.uint16(place)
    return codes


def _read_digits(stream: Bytes, meanings: list[int], bits: int, count: int, where: str) -> Codes:
    """Read codes that are digits of base n, as many a byte as it holds (3.7)."""
    ascending = all(one < other for one, other in pairwise(meanings))
    fine = ascending and meanings[-1] < 2**bits
    require(fine, f"{where}: the digits {meanings} are no ascending codes of {bits} bits")
    base = len(meanings)
    held = next(digits for digits in range(8, 0, -1) if base**digits <= 2**8)
    fine = len(stream) == -(-count // held)
    require(fine, f"{where}: {count} digits of base {base} are not {len(stream)} bytes")
    fine = int(stream.max()) < base**held
    require(fine, f"{where}: a byte of {stream.max()} is no {held} digits of base {base}")
    of_byte = np.arange(base**held)[:, np.newaxis] // base ** np.arange(held) % base
    digits = of_byte.astype(np.uint8)[stream].reshape(-1)
    require(not digits[count:].any(), f"{where}: digits after the last code are not 0")
    return np.array(meanings, np.uint16)[digits[:count]]


def _read_entropy(
    stream: Bytes, precision: int, lanes: int, bits: int, count: int, where: str
) -> Codes:
    """Decode rANS codes (3.8): first by turns, all lanes at once, then from the last states."""
    fine = count <= _MOST_CODES_A_BYTE * len(stream)
    require(fine, f"{where}: {len(stream)} bytes are too few for {count} codes")
    a_turn = _WORD_BITS // max(precision, bits)
    in_states = _WORD_BITS * lanes // bits
    turns = -(-max(0, count - in_states) // (a_turn * lanes))
    require(turns <= _MOST_TURNS, f"{where}: {turns} turns of {lanes} lanes")
    table_size, states_size = _CODE.itemsize * 2**bits, _STATE.itemsize * lanes
    fine = len(stream) >= table_size + states_size and len(stream) % _CODE.itemsize == 0
    require(fine, f"{where}: {len(stream)} bytes are no table, {lanes} states and words")
    content = stream.tobytes()
    frequencies = np.frombuffer(content, _CODE, 2**bits).astype(np.int64)
    fine = int(frequencies.sum()) == 2**precision
    require(fine, f"{where}: the frequencies do not sum to 2^{precision}")
    states = np.frombuffer(content, _STATE, lanes, table_size).astype(np.int64)
    require(int(states.min()) >= _LOWEST_STATE, f"{where}: a state is below 2^16")
    words = np.frombuffer(content, _CODE, offset=table_size + states_size).astype(np.int64)
    codes, factors, addends = _turn_tables(frequencies, precision, a_turn)
    chosen = np.zeros((turns, lanes), np.uint16)
    position = 0
    for turn in range(turns):
        lowest = states & (len(codes) - 1)
        chosen[turn] = lowest
        states = factors[lowest] * (states >> (a_turn * precision)) + addends[lowest]
        short = np.flatnonzero(states < _LOWEST_STATE)
        read = words[position : position + len(short)]
        require(len(read) == len(short), f"{where}: words are missing")
        states[short] = _LOWEST_STATE * states[short] + read
        position += len(short)
    require(position == len(words), f"{where}: {len(words) - position} words are left over")
    require(int(states.max()) < 2 * _LOWEST_STATE, f"{where}: a last state of 2^17 or more")
    rest = count - chosen.size * a_turn
    tail = (states - _LOWEST_STATE).astype(_CODE).view(np.uint8)
    used = -(-bits * rest // 8)
    require(not tail[used:].any(), f"{where}: bits after the last code are not 0")
    last = unpack(tail[:used], bits, rest, where)
    return np.concatenate([codes[chosen].reshape(-1), last])


def _turn_tables(
    frequencies: NDArray[np.int64], precision: int, a_turn: int
) -> tuple[Codes, NDArray[np.int64], NDArray[np.int64]]:
    """Return what the lowest bits of a state say of a turn: codes, and the state after it.

    A state of `high` and `lowest` bits becomes `factors[lowest] * high + addends[lowest]`: every
    step is linear in `high`, and lowers by `precision` the power of two before it.
    """
    codes = np.repeat(np.arange(len(frequencies)).astype(np.uint16), frequencies)
    offsets = np.arange(len(codes)) - (np.cumsum(frequencies) - frequencies)[codes]
    addends = np.arange(2 ** (a_turn * precision))
    factors = np.ones_like(addends)
    found = np.zeros((len(addends), a_turn), np.uint16)
    for step in range(a_turn):
        slots = addends & (len(codes) - 1)
        found[:, step] = codes[slots]
        factors *= frequencies[codes[slots]]
        addends = frequencies[codes[slots]] * (addends >> precision) + offsets[slots]
    return found, factors, addends
