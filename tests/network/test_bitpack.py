"""Bit packing: bytes stated by hand, and a slow big-integer reference beside the fast paths."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apot_export.network.bitpack import Codes, pack, unpack
from apot_export.network.codebook import storage_bytes

PROPERTY = settings(derandomize=True, deadline=None, max_examples=150)


def array(codes: list[int], bits: int) -> Codes:
    return np.array(codes, dtype=np.uint8 if bits <= 8 else np.uint16)


def packed_as_one_integer(codes: list[int], bits: int) -> bytes:
    """Write the whole stream as one little-endian integer: obviously right, and slow."""
    stream = sum(code << (position * bits) for position, code in enumerate(codes))
    return stream.to_bytes((len(codes) * bits + 7) // 8, "little")


@st.composite
def widths_and_codes(draw: st.DrawFn) -> tuple[int, list[int]]:
    bits = draw(st.integers(1, 16))
    return bits, draw(st.lists(st.integers(0, (1 << bits) - 1), max_size=70))


@pytest.mark.parametrize(
    ("bits", "codes", "packed"),
    [
        (1, [1], "01"),
        (1, [0, 0, 0, 0, 0, 0, 0, 1, 1], "80 01"),
        (2, [3, 0, 0, 0, 2], "03 02"),
        (3, [7, 0, 0], "07 00"),
        (3, [0, 0, 7], "c0 01"),
        (3, [1, 2, 3, 4, 5, 6, 7, 0], "d1 58 1f"),
        (4, [15], "0f"),
        (4, [1, 2, 3], "21 03"),
        (5, [31, 0, 0, 0, 0, 0, 0, 31], "1f 00 00 00 f8"),
        (5, [1] * 9, "21 84 10 42 08 01"),
        (6, [63, 1, 2], "7f 20 00"),
        (7, [127, 0, 127], "7f c0 1f"),
        (8, [255, 0, 1], "ff 00 01"),
        (9, [511], "ff 01"),
        (9, [0, 1, 256], "00 02 00 04"),
        (12, [0xABC, 0x123], "bc 3a 12"),
        (16, [0x1234, 0xFFFF, 0], "34 12 ff ff 00 00"),
    ],
)
def test_bytes_by_hand(bits: int, codes: list[int], packed: str) -> None:
    assert pack(array(codes, bits), bits).tobytes().hex(" ") == packed
    unpacked = unpack(np.frombuffer(bytes.fromhex(packed), dtype=np.uint8), bits, len(codes))
    assert unpacked.tolist() == codes


@PROPERTY
@given(widths_and_codes())
def test_round_trip_against_one_big_integer(case: tuple[int, list[int]]) -> None:
    bits, codes = case
    packed = pack(array(codes, bits), bits)
    assert packed.dtype == np.uint8
    assert packed.shape == (storage_bytes((len(codes),), bits),)
    assert packed.tobytes() == packed_as_one_integer(codes, bits)
    unpacked = unpack(packed, bits, len(codes))
    assert unpacked.dtype == (np.uint8 if bits <= 8 else np.uint16)
    assert unpacked.tolist() == codes


@pytest.mark.parametrize("bits", range(1, 17))
@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 9, 15, 16, 17])
def test_every_width_with_odd_tails(bits: int, count: int) -> None:
    top = (1 << bits) - 1
    codes = [(top, 0, 1, top >> 1)[position % 4] for position in range(count)]
    packed = pack(array(codes, bits), bits)
    assert packed.tobytes() == packed_as_one_integer(codes, bits)
    assert unpack(packed, bits, count).tolist() == codes


@pytest.mark.parametrize("bits", [3, 8, 11])
def test_any_shape_is_packed_in_c_order(bits: int) -> None:
    codes = (np.arange(24) % (1 << bits)).reshape(2, 3, 4).astype(array([], bits).dtype)
    transposed = codes.transpose(2, 0, 1)
    assert not transposed.flags.c_contiguous
    packed = pack(transposed, bits)
    assert packed.tobytes() == packed_as_one_integer(transposed.reshape(-1).tolist(), bits)


def test_packed_bytes_do_not_alias_their_source() -> None:
    codes = np.array([1, 2, 3], dtype=np.uint8)
    packed = pack(codes, 8)
    codes[0] = 9
    assert packed.tolist() == [1, 2, 3]
    unpacked = unpack(packed, 8, 3)
    packed[0] = 9
    assert unpacked.tolist() == [1, 2, 3]


@pytest.mark.parametrize("bits", range(1, 16))
def test_a_code_that_does_not_fit_is_refused(bits: int) -> None:
    codes = np.array([0, 1 << bits], dtype=np.uint16)
    with pytest.raises(ValueError, match=f"code {1 << bits} does not fit {bits} bits"):
        pack(codes, bits)


@pytest.mark.parametrize("bits", range(1, 17))
@pytest.mark.parametrize("surplus", [-1, 1])
def test_a_wrong_number_of_bytes_is_refused(bits: int, surplus: int) -> None:
    size = storage_bytes((9,), bits)
    with pytest.raises(ValueError, match=rf"9 codes of {bits} bits take {size} bytes"):
        unpack(np.zeros(size + surplus, dtype=np.uint8), bits, 9)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7, 9, 11, 15])
def test_every_filling_bit_must_be_zero(bits: int) -> None:
    count = 9
    size = storage_bytes((count,), bits)
    filling = range(count * bits, size * 8)
    assert filling
    for bit in range(size * 8):
        packed = np.frombuffer((1 << bit).to_bytes(size, "little"), dtype=np.uint8)
        if bit in filling:
            with pytest.raises(ValueError, match="filling bits"):
                unpack(packed, bits, count)
        else:
            assert unpack(packed, bits, count)[bit // bits] == 1 << (bit % bits)
