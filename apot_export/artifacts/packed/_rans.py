"""Entropy coding of codes: interleaved range ANS, which numpy alone decodes.

Many coders ("lanes") share one stream of 16-bit words and one table of frequencies, and take turns;
so each step of all lanes is a handful of array operations. FORMAT.md, section 3.8, is the
specification.

It is written here because readers of packed files need numpy only; on the codes of a ResNet-18
this decodes as fast as compiled coders of one stream, and smaller than zstd and DeepCABAC
(benchmarks/size_and_loading.py).

Sources: Duda, "Asymmetric numeral systems", arXiv:1311.2540; Giesen, "Interleaved entropy coders",
arXiv:1402.3392.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apot_export.network.bitpack import Codes, pack, room_for, unpack

WORD_BITS = 16
LEAST_PRECISION, MOST_PRECISION = 4, 15
MOST_TURNS = 1 << 16
"""Turns of a stream: a bound on the time that decoding takes."""
CODES_OF_A_BYTE = 1024
"""Most codes that a byte may stand for: a bound on the memory that decoding takes."""
_LEAST_STATE = 1 << WORD_BITS
_STATE_BYTES, _WORD_BYTES, _FREQUENCY_BYTES = 4, 2, 2
_PRECISIONS = (4, 5, 8, 12, 15)
"""What the encoder tries, the fastest to decode first: up to 4, 3, 2, 1 and 1 codes a turn."""
_TOLERANCE = 1.002
"""How much larger a stream may be that decodes faster."""
_BYTES_OF_A_LANE = 384
"""Of a long stream; a lane costs about 1.2 bytes."""
_BYTES_OF_A_SHORT_LANE = 192
_SHORT_LANES = 192
"""Lanes up to which the number of array operations, not of numbers, is what takes time."""
_TURNS = 512
"""Turns beyond which lanes are shorter, too."""
_LONG_TURNS = 4096


@dataclass(frozen=True, kw_only=True)
class Coding:
    """How a stream is coded, beside the width and number of its codes."""

    precision: int
    """The frequencies of all codes sum to 2 ** precision: 4 to 15."""
    lanes: int
    """Coders that take turns, at least 1."""

    def codes_of_a_turn(self, bits: int) -> int:
        """Return how many codes a lane decodes before it may read a word."""
        return WORD_BITS // max(self.precision, bits)

    def turns(self, bits: int, count: int) -> int:
        """Return how often every lane decodes; the codes beyond lie in the lanes' last states."""
        coded = max(0, count - WORD_BITS * self.lanes // bits)
        return -(-coded // (self.codes_of_a_turn(bits) * self.lanes))


# --- encoding -------------------------------------------------------------------------------------


def encode(
    codes: Codes, bits: int, coding: Coding | None = None
) -> tuple[NDArray[np.uint8], Coding]:
    """Encode codes of 1 to 16 bits, at least one: the same codes give the same bytes.

    Returns the stream, uint8, and its coding, which is chosen for size and speed where it is None.

    Raises:
        ValueError: A code does not fit, or the precision cannot tell the codes apart.
    """
    flat = codes.reshape(-1)
    counts = np.bincount(flat, minlength=1 << bits)
    if counts.size > 1 << bits:
        raise ValueError(f"code {counts.size - 1} does not fit {bits} bits")
    coding = _chosen(counts, bits) if coding is None else coding
    frequencies = _frequencies(counts, coding.precision)
    lanes, turns, width = coding.lanes, coding.turns(bits, flat.size), coding.codes_of_a_turn(bits)
    coded = turns * lanes * width
    states, words = _encoded(
        flat[:coded].reshape(turns, lanes, width), flat[coded:], bits, frequencies, coding
    )
    content = frequencies.astype("<u2").tobytes() + states.astype("<u4").tobytes()
    return np.frombuffer(content + words.astype("<u2").tobytes(), dtype=np.uint8), coding


def _encoded(
    turns: Codes, rest: Codes, bits: int, frequencies: NDArray[np.int64], coding: Coding
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Run the decoder backwards: from its last states to its first, words last to first."""
    starts = np.cumsum(frequencies) - frequencies
    last = np.zeros(coding.lanes * _WORD_BYTES, dtype=np.uint8)
    tail = pack(rest, bits)
    last[: tail.size] = tail
    states = last.view("<u2").astype(np.int64) + _LEAST_STATE
    room = 2 * WORD_BITS - coding.precision * turns.shape[-1]
    words = [np.zeros(0, dtype=np.int64)]
    for turn in turns[::-1]:
        columns = [(frequencies[codes], starts[codes]) for codes in turn.T]
        limits = np.left_shift(np.prod([width for width, _ in columns], axis=0), room)
        full = states >= limits
        words.append(states[full] & (_LEAST_STATE - 1))
        states = np.where(full, states >> WORD_BITS, states)
        for width, start in columns[::-1]:
            above, below = np.divmod(states, width)
            states = (above << coding.precision) + below + start
    return states, np.concatenate(words[::-1])


def _chosen(counts: NDArray[np.int64], bits: int) -> Coding:
    """Choose the precision by the size of the stream, and the lanes so that numpy is fast."""
    distinct = int(np.count_nonzero(counts))
    sizes = {
        precision: _coded_bytes(counts, precision)
        for precision in _PRECISIONS
        if distinct <= 1 << precision
    }
    least = min(sizes.values())
    precision = next(p for p, size in sizes.items() if size <= least * _TOLERANCE)
    size, count = int(sizes[precision]), int(counts.sum())
    width = Coding(precision=precision, lanes=1).codes_of_a_turn(bits)
    lanes = max(
        1,
        size // _BYTES_OF_A_LANE,
        min(max(_SHORT_LANES, count // (width * _TURNS)), size // _BYTES_OF_A_SHORT_LANE),
        -(-count // (width * _LONG_TURNS)),
    )
    return Coding(precision=precision, lanes=lanes)


def _coded_bytes(counts: NDArray[np.int64], precision: int) -> float:
    used = counts > 0
    probabilities = _frequencies(counts, precision)[used] / (1 << precision)
    return float(counts[used] @ -np.log2(probabilities)) / 8


def _frequencies(counts: NDArray[np.int64], precision: int) -> NDArray[np.int64]:
    """Apportion 2 ** precision slots by Webster's method, at least one to every code that occurs.

    Adding a slot to a code of frequency f saves about count / (f + 1/2) bits, up to a factor.
    """
    slots, used = 1 << precision, counts > 0
    if int(used.sum()) > slots:
        raise ValueError(f"{int(used.sum())} codes do not fit {slots} slots")
    frequencies = np.where(used, np.maximum(1, counts * slots // counts.sum()), 0)
    while (missing := slots - int(frequencies.sum())) > 0:
        gains = counts / (2 * frequencies + 1)
        frequencies[np.argmax(gains)] += missing if int(used.sum()) == 1 else 1
    while frequencies.sum() > slots:
        losses = np.where(frequencies > 1, counts / np.maximum(2 * frequencies - 1, 1), np.inf)
        frequencies[np.argmin(losses)] -= 1
    return frequencies


# --- decoding -------------------------------------------------------------------------------------


def decode(content: NDArray[np.uint8], bits: int, count: int, coding: Coding) -> Codes:
    """Undo `encode`: return uint8 [count], or uint16 [count] where bits > 8.

    Raises:
        ValueError: The stream is malformed, or holds another number of codes. Whatever it holds,
            time and memory stay within what its size allows.
    """
    lanes, turns, width = coding.lanes, coding.turns(bits, count), coding.codes_of_a_turn(bits)
    if found := problem(content.size, bits, count, coding):
        raise ValueError(found)
    table = _FREQUENCY_BYTES << bits
    head = table + _STATE_BYTES * lanes
    frequencies = content[:table].view("<u2").astype(np.uint32)
    if int(frequencies.sum(dtype=np.int64)) != 1 << coding.precision:
        raise ValueError(f"frequencies that do not sum to 2^{coding.precision}")
    states = content[table:head].view("<u4").astype(np.uint32)
    words = content[head:].view("<u2")
    if int(states.min()) < _LEAST_STATE:
        raise ValueError("a state below 2^16")
    coded = turns * lanes * width
    codes = room_for(count, bits)
    steps = _Steps(frequencies, coding.precision, width)
    _decode_turns(states, words, _rows(codes[:coded].reshape(turns, lanes, width), steps), steps)
    last = (states - np.uint32(_LEAST_STATE)).astype("<u4")
    if int(last.max()) >= _LEAST_STATE:
        raise ValueError("a last state that is not below 2^17")
    rest = count - coded
    tail = last.astype("<u2").view(np.uint8)
    used = (rest * bits + 7) // 8
    if tail[used:].any():
        raise ValueError("bits after the last code that are not zero")
    codes[coded:] = unpack(tail[:used], bits, rest)
    return codes


def problem(size: int, bits: int, count: int, coding: Coding) -> str | None:
    """Return why a stream of this size cannot hold this many codes; None if it can."""
    head = (_FREQUENCY_BYTES << bits) + _STATE_BYTES * coding.lanes
    if size < head or (size - head) % _WORD_BYTES:
        return f"{size} bytes for {coding.lanes} lanes of codes of {bits} bits"
    if count > CODES_OF_A_BYTE * size:
        return f"{size} bytes for {count} codes"
    turns = coding.turns(bits, count)
    return f"{turns} turns" if turns > MOST_TURNS else None


class _Steps:
    """What a turn does to a state, by the bits of the state that decide it.

    With d the bits that a turn looks at, a turn makes of a state `above * 2 ** d + low`
    `factors[low] * above + addends[low]`, and yields the codes `symbols[low]`.
    """

    def __init__(self, frequencies: NDArray[np.uint32], precision: int, width: int) -> None:
        """Combine the steps of the codes of a turn."""
        self.bits = precision * width
        slots = np.arange(1 << precision, dtype=np.uint32)
        code_of_slot = np.repeat(
            np.arange(frequencies.size, dtype=np.uint32), frequencies.astype(np.int64)
        )
        starts = np.cumsum(frequencies, dtype=np.uint32) - frequencies
        factor_of_slot = frequencies[code_of_slot]
        addend_of_slot = slots - starts[code_of_slot]
        wide = frequencies.size > 1 << 8
        self.symbols = code_of_slot.astype(np.uint16 if wide else np.uint8)
        self.factors, self.addends = factor_of_slot, addend_of_slot
        if width == 1:
            return
        states = np.arange(1 << self.bits, dtype=np.uint32)
        self.factors = np.ones_like(states)
        symbols = np.zeros_like(states)
        for position in range(width):
            slot = states & np.uint32(slots.size - 1)
            factor = factor_of_slot[slot]
            states >>= np.uint32(precision)
            states *= factor
            states += addend_of_slot[slot]
            self.factors *= factor
            symbols |= code_of_slot[slot] << np.uint32(8 * position)
        self.addends = states
        self.symbols = symbols.astype("<u2" if width == 2 else "<u4")  # noqa: PLR2004 - bytes


def _rows(codes: Codes, steps: _Steps) -> Iterator[NDArray[np.unsignedinteger]]:
    """Yield, turn by turn, an array [lanes] that takes the symbols of the turn's codes."""
    turns, lanes, width = codes.shape
    if width != 3:  # noqa: PLR2004 - three codes lie in four bytes
        yield from codes.view(steps.symbols.dtype).reshape(turns, lanes)
        return
    row = np.empty(lanes, steps.symbols.dtype)
    for found in codes:
        yield row
        found[:] = row.view(np.uint8).reshape(lanes, -1)[:, :width]


def _decode_turns(
    states: NDArray[np.uint32],
    words: NDArray[np.uint16],
    rows: Iterator[NDArray[np.unsignedinteger]],
    steps: _Steps,
) -> None:
    """Decode a turn into every row, and leave the last states in `states`.

    Every operation writes where it is told to: a turn is short, and allocation would dominate it.
    """
    low = np.empty(states.size, dtype=np.intp)
    numbers, short = np.empty_like(states), np.empty(states.size, dtype=np.bool_)
    mask, shift = np.intp((1 << steps.bits) - 1), np.uint32(steps.bits)
    word_bits, least = np.uint32(WORD_BITS), np.uint32(_LEAST_STATE)
    taken = 0
    for row in rows:
        np.copyto(low, states)
        np.bitwise_and(low, mask, out=low)
        steps.symbols.take(low, out=row, mode="clip")
        steps.factors.take(low, out=numbers, mode="clip")
        np.right_shift(states, shift, out=states)
        np.multiply(states, numbers, out=states)
        steps.addends.take(low, out=numbers, mode="clip")
        np.add(states, numbers, out=states)
        (below,) = np.less(states, least, out=short).nonzero()
        read = words[taken : taken + below.size]
        if read.size < below.size:
            raise ValueError("the words end too early")
        taken += below.size
        states[below] = (states[below] << word_bits) | read
    if taken < words.size:
        raise ValueError(f"{words.size - taken} words that nothing reads")
