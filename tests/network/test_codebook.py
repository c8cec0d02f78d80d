"""Codebooks: published level sets written out, their digit tables, and what is malformed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apot_export.errors import CodebookError
from apot_export.network.codebook import (
    MAXIMUM_DENOMINATOR,
    Codebook,
    apot,
    apot_candidates,
    distinct_levels,
    power_of_two_shift,
    storage_bytes,
    uniform,
)

PROPERTY = settings(derandomize=True, deadline=None, max_examples=100)

# Magnitude bits: denominator and levels, Li, Dong and Wang, "Additive Powers-of-Two Quantization".
PUBLISHED = {
    2: (4, [0, 1, 2, 4]),
    3: (10, [0, 1, 2, 3, 4, 6, 8, 10]),
    4: (48, [0, 1, 2, 3, 4, 6, 8, 9, 12, 16, 18, 24, 32, 33, 36, 48]),
    5: (100, [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 17, 20, 21, 24, 28, 32, 34, 36, 38, 48, 52,
              64, 65, 68, 69, 72, 76, 96, 100]),
}  # fmt: skip
ORDERS = {
    2: "0 4 2 1",
    3: "0 2 4 8 10 6 1 3",
    4: "0 16 32 4 1 48 36 33 8 24 12 9 2 18 6 3",
    5: "0 4 8 32 36 12 1 5 64 68 96 100 72 76 65 69 14 3 7 34 38 10 48 20 16 52 24 28 17 21 2 6",
}


@pytest.mark.parametrize("bits", PUBLISHED)
def test_additive_levels_are_the_published_ones(bits: int) -> None:
    denominator, levels = PUBLISHED[bits]
    unsigned, signed = apot(bits, signed=False), apot(bits, signed=True)
    assert unsigned.denominator == signed.denominator == denominator
    assert sorted(unsigned.levels.tolist()) == levels
    assert sorted(signed.levels.tolist()) == sorted(levels + [-level for level in levels])
    assert (unsigned.bits, signed.bits) == (bits, bits + 1)


def test_six_bits_have_64_levels_up_to_448() -> None:
    book = apot(6, signed=False)
    assert distinct_levels(book).size == 64
    assert (book.denominator, book.levels.max(), book.bits) == (448, 448, 6)
    # Section 2.2 of the paper: three terms, each of its own interleaved powers.
    terms = ((0, 256, 32, 4), (0, 128, 16, 2), (0, 64, 8, 1))
    assert set(book.levels.tolist()) == {
        a + b + c for a in terms[0] for b in terms[1] for c in terms[2]
    }


@pytest.mark.parametrize("bits", ORDERS)
def test_candidates_keep_the_order_of_the_original(bits: int) -> None:
    assert list(apot_candidates(bits)) == [int(word) for word in ORDERS[bits].split()]
    assert sorted(apot_candidates(bits)) == PUBLISHED[bits][1]


@pytest.mark.parametrize("bits", [-1, 0, 1, 7, 8])
def test_degenerate_additive_sets_are_refused(bits: int) -> None:
    with pytest.raises(CodebookError, match=f"{bits} magnitude bits"):
        apot(bits, signed=False)
    with pytest.raises(CodebookError, match=f"{bits} magnitude bits"):
        apot_candidates(bits)


@pytest.mark.parametrize("bits", range(1, 17))
def test_uniform_codes_are_their_own_levels(bits: int) -> None:
    book = uniform(bits, signed=False)
    assert book.levels.tolist() == list(range(1 << bits))
    assert book.denominator == (1 << bits) - 1
    assert book.code_dtype is (np.uint8 if bits <= 8 else np.uint16)


def test_ternary_levels() -> None:
    assert uniform(1, signed=True).levels.tolist() == [0, 1, 0, -1]


def test_first_and_last_layers_leave_int8() -> None:
    book = uniform(8, signed=True, denominator=127)
    assert (book.bits, book.denominator, book.sign_mask) == (9, 127, 256)
    assert book.levels[256 + 145] == -145


@pytest.mark.parametrize(("bits", "signed"), [(0, False), (17, False), (0, True), (16, True)])
def test_uniform_widths_beyond_a_code_are_refused(bits: int, signed: bool) -> None:
    with pytest.raises(CodebookError, match="do not fit a code"):
        uniform(bits, signed=signed)


def test_a_code_is_its_fields_the_first_lowest_and_the_sign_highest() -> None:
    book = apot(5, signed=True)
    assert book.tables == ((0, 64, 16, 2), (0, 32, 8, 1), (0, 4))
    assert book.field_bits == (2, 2, 1)
    assert (book.magnitude_bits, book.bits, book.sign_mask) == (5, 6, 0b100000)
    assert book.levels[0b0_1_10_01] == 4 + 8 + 64
    assert book.levels[0b1_0_11_11] == -(1 + 2)
    assert book.levels[0b1_0_00_00] == 0


ADDENDS = st.one_of(
    st.just(0), st.builds(lambda k, s: s << k, st.integers(0, 12), st.sampled_from([1, -1]))
)
TABLES = st.lists(
    st.sampled_from([2, 4, 8]).flatmap(lambda size: st.tuples(*[ADDENDS] * size)),
    min_size=1,
    max_size=4,
).map(tuple)


@PROPERTY
@given(TABLES, st.booleans(), st.data())
def test_levels_of_any_tables_by_digits(
    tables: tuple[tuple[int, ...], ...],
    signed: bool,
    data: st.DataObject,
) -> None:
    book = Codebook(tables=tables, denominator=1, signed=signed)
    digits = [data.draw(st.integers(0, len(table) - 1)) for table in tables]
    code, radix, level = 0, 1, 0
    for table, digit in zip(tables, digits, strict=True):
        code += digit * radix
        radix *= len(table)
        level += table[digit]
    assert book.sign_mask == (radix if signed else 0)
    assert book.levels[code] == level
    assert book.levels.shape == (1 << book.bits,)
    if signed:
        assert book.levels[code + radix] == -level


@PROPERTY
@given(TABLES, st.booleans())
def test_every_level_has_its_smallest_code(
    tables: tuple[tuple[int, ...], ...],
    signed: bool,
) -> None:
    book = Codebook(tables=tables, denominator=1, signed=signed)
    codes = book.code_of_level()
    assert sorted(codes) == distinct_levels(book).tolist()
    for level, code in codes.items():
        assert np.flatnonzero(book.levels == level)[0] == code


def test_levels_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="read-only"):
        apot(2, signed=False).levels[0] = 1


@pytest.mark.parametrize(
    ("tables", "denominator", "message"),
    [
        (((0, 1, 2),), 1, "power-of-two length"),
        (((1,),), 1, "power-of-two length"),
        (((),), 1, "power-of-two length"),
        (((0, 3),), 1, "0 or plus or minus a power of two"),
        (((0, -6),), 1, "0 or plus or minus a power of two"),
        (((0, 1),), 0, "denominator"),
        (((0, 1),), MAXIMUM_DENOMINATOR + 1, "denominator"),
        (((0, 1 << 24),), 1, "below 2\\^24"),
        (((0, 1 << 23), (0, -(1 << 23))), 1, "below 2\\^24"),
        ((), 1, "between 1 and 16 bits"),
        (((0, 1),) * 17, 1, "between 1 and 16 bits"),
    ],
)
def test_malformed_codebooks(
    tables: tuple[tuple[int, ...], ...], denominator: int, message: str
) -> None:
    with pytest.raises(CodebookError, match=message):
        Codebook(tables=tables, denominator=denominator, signed=False)


def test_the_sign_bit_counts_towards_the_width() -> None:
    assert Codebook(tables=((0, 1),) * 16, denominator=1, signed=False).bits == 16
    with pytest.raises(CodebookError, match="17 bits"):
        Codebook(tables=((0, 1),) * 16, denominator=1, signed=True)


def test_small_helpers() -> None:
    assert [power_of_two_shift(sign << k) for k in range(24) for sign in (1, -1)] == [
        k for k in range(24) for _ in range(2)
    ]
    sizes = [storage_bytes((64, 3, 7, 7), 4), storage_bytes((), 3), storage_bytes((0, 5), 3)]
    assert sizes == [4704, 1, 0]
