"""Codes stored as digits or entropy-coded: smaller, the same codes, and refused where damaged."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apot_export.artifacts.packed import _rans, load_packed, tensor_bytes
from apot_export.artifacts.packed._digits import (
    decode_digits,
    digit_bytes,
    digits_of_a_byte,
    encode_digits,
)
from apot_export.artifacts.packed._rans import Coding
from apot_export.artifacts.packed.writing import packed_file_bytes
from apot_export.errors import IntegerError, PackedFileError
from apot_export.network import CodedLayer
from apot_export.network.bitpack import pack
from conformance.files import unseal
from tests.support.packed_files import as_codes, example, load, resealed, skewed, stored_network

if TYPE_CHECKING:
    from pathlib import Path


RANDOM = settings(derandomize=True, deadline=None, max_examples=120)
PRECISIONS = st.integers(_rans.LEAST_PRECISION, _rans.MOST_PRECISION)


def entropy_bytes(codes: np.ndarray[Any, np.dtype[Any]]) -> float:
    counts = np.unique(codes, return_counts=True)[1]
    return float(counts @ -np.log2(counts / counts.sum())) / 8


# --- the coders -----------------------------------------------------------------------------------


@RANDOM
@given(st.integers(1, 12), PRECISIONS, st.integers(1, 300), st.integers(1, 900), st.integers(0, 99))
def test_streams_of_any_shape_decode(
    bits: int, precision: int, lanes: int, size: int, seed: int
) -> None:
    codes = as_codes(skewed(max(bits, 2), size, seed) & ((1 << bits) - 1), bits)
    if np.unique(codes).size > 1 << precision:
        with pytest.raises(ValueError, match="slots"):
            _rans.encode(codes, bits, Coding(precision=precision, lanes=lanes))
        return
    coding = Coding(precision=precision, lanes=lanes)
    stream, said = _rans.encode(codes, bits, coding)
    assert said == coding
    found = _rans.decode(stream, bits, size, coding)
    assert found.dtype == (np.uint8 if bits <= 8 else np.uint16)
    np.testing.assert_array_equal(found, codes)
    again, _ = _rans.encode(codes, bits, coding)
    assert again.tobytes() == stream.tobytes()


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 9, 16])
def test_chosen_codings_decode(bits: int) -> None:
    rng = np.random.default_rng(bits)
    for size in (1, 2, 33, 5000):
        for codes in (
            as_codes(np.full(size, (1 << bits) - 1), bits),
            as_codes(rng.integers(0, 1 << bits, size), bits),
        ):
            stream, coding = _rans.encode(codes, bits)
            np.testing.assert_array_equal(_rans.decode(stream, bits, size, coding), codes)
    with pytest.raises(ValueError, match="does not fit"):
        _rans.encode(np.array([1 << min(bits, 15)], dtype=np.uint16), min(bits, 15))


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_streams_stay_within_two_percent_of_the_entropy(bits: int) -> None:
    for size in (30_000, 600_000):
        codes = skewed(bits, size)
        stream, coding = _rans.encode(codes, bits)
        assert stream.size <= 1.02 * entropy_bytes(codes)
        assert stream.size < pack(codes, bits).size
        assert coding.turns(bits, size) <= 4096
        np.testing.assert_array_equal(_rans.decode(stream, bits, size, coding), codes)


def test_sparse_ternary_codes_take_less_than_a_bit() -> None:
    codes = np.random.default_rng(3).choice(3, p=[0.86, 0.07, 0.07], size=400_000).astype(np.uint8)
    stream, coding = _rans.encode(codes, 2)
    assert stream.size * 8 / codes.size < 0.75
    assert stream.size <= 1.02 * entropy_bytes(codes)
    np.testing.assert_array_equal(_rans.decode(stream, 2, codes.size, coding), codes)


@RANDOM
@given(st.data())
def test_a_damaged_stream_is_refused_or_decodes_to_codes(data: st.DataObject) -> None:
    bits, size = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 400))
    lanes = data.draw(st.integers(1, 30))
    codes = as_codes(skewed(max(bits, 2), size) & ((1 << bits) - 1), bits)
    precision = max(bits, data.draw(PRECISIONS))
    coding = Coding(precision=max(4, precision), lanes=lanes)
    stream, _ = _rans.encode(codes, bits, coding)
    damaged = bytearray(stream.tobytes())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([0, 0, 0, 1, 2, 9]))
    content = np.frombuffer(bytes(damaged[: len(damaged) - cut]), dtype=np.uint8)
    count = data.draw(st.sampled_from([size, size, size + 1, 1, 10 * size, 1 << 40]))
    other = data.draw(st.sampled_from([coding, Coding(precision=4, lanes=1 << 30)]))
    try:
        found = _rans.decode(content, bits, count, other)
    except ValueError:
        return
    assert found.size == count
    assert int(found.max()) < 1 << bits


def test_few_bytes_cannot_stand_for_very_many_codes() -> None:
    coding = Coding(precision=4, lanes=1)
    content = np.zeros(1 << 10, dtype=np.uint8)
    content[0], content[6] = 16, 1  # one code has all slots, and costs nothing
    most = _rans.CODES_OF_A_BYTE * content.size
    assert "1024 bytes for" in str(_rans.problem(content.size, 1, most + 1, coding))
    assert "turns" in str(_rans.problem(content.size, 1, most, coding))
    wide = Coding(precision=4, lanes=200)
    assert _rans.problem(content.size, 1, most, wide) is None


@pytest.mark.parametrize("base", range(2, 17))
def test_digits_of_every_base(base: int) -> None:
    used = list(range(1, 2 * base, 2))
    places = digits_of_a_byte(base)
    assert base**places <= 256 < base ** (places + 1)
    for size in (1, places, places + 1, 997):
        codes = np.random.default_rng(size).choice(used, size=size).astype(np.uint16)
        stored = encode_digits(codes, used)
        assert stored.shape == (digit_bytes(base, size),)
        found = decode_digits(stored, used, 9, size)
        assert found.dtype == np.uint16
        np.testing.assert_array_equal(found, codes)


# --- in the packed file ---------------------------------------------------------------------------


def storages(content: bytes) -> dict[str, Any]:
    described = json.loads(unseal(content)[0]["__metadata__"]["network"])["layers"]
    return {name: layer.get("storage") for name, layer in described.items()}


def test_compressed_files_hold_the_same_network(tmp_path: Path) -> None:
    coded = example()
    plain, small = packed_file_bytes(coded, {}), packed_file_bytes(coded, {}, compress=True)
    assert storages(plain) == {
        "a": None,
        "b": None,
        "ternary": {"digits": [0, 1, 3]},
        "float": None,
    }
    assert set(storages(small)["a"]) == {"entropy"}
    assert small == packed_file_bytes(coded, {}, compress=True)
    assert len(small) < len(plain)
    assert tensor_bytes(plain)["ternary.codes"] == 1600  # 1.6 bits a weight
    for content in (plain, small):
        loaded = load(tmp_path, content)
        for name, layer in coded.layers.items():
            found = loaded.layers[name]
            assert found.shape == layer.shape
            assert found.weights().tobytes() == layer.weights().tobytes()
            if isinstance(layer, CodedLayer):
                assert isinstance(found, CodedLayer)
                np.testing.assert_array_equal(found.packed, layer.packed)
                np.testing.assert_array_equal(found.levels(), layer.levels())
        assert packed_file_bytes(loaded.network, {}) == plain
        image = np.random.default_rng(1).random((1, 40, 2, 2), dtype=np.float32)
        assert loaded.run(image).shape == (1, 200, 2, 2)


def test_codes_that_gain_nothing_stay_a_bit_stream() -> None:
    even = np.arange(8000) % 16
    assert (
        storages(packed_file_bytes(stored_network(a=even.astype(np.uint8)), {}, compress=True))["a"]
        is None
    )
    short = stored_network(ternary=np.array([0, 1, 3, 0] * 10, dtype=np.uint8))
    assert storages(packed_file_bytes(short, {}))["ternary"] is None


def test_an_integer_program_needs_a_bit_stream(tmp_path: Path) -> None:
    anything: Any = object()
    with pytest.raises(IntegerError, match="leave out --compress or --integer"):
        packed_file_bytes(example(), {}, anything, compress=True)
    assert not list(tmp_path.iterdir())


@RANDOM
@given(st.dictionaries(st.integers(0, 1 << 14), st.integers(0, 255), min_size=1, max_size=5))
def test_hostile_streams_are_refused_or_decode(
    tmp_path_factory: pytest.TempPathFactory, change: dict[int, int]
) -> None:
    content = resealed(packed_file_bytes(example(), {}, compress=True), "a.codes", change)
    folder = tmp_path_factory.mktemp("hostile")
    try:
        loaded = load(folder, content)
    except PackedFileError as error:
        assert "a.codes" in str(error)  # noqa: PT017 - most, but not all, are refused
        return
    assert loaded.layers["a"].weights().shape == loaded.layers["a"].shape


# --- opening --------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [False, True])
def test_one_layer_is_decoded_without_the_others(tmp_path: Path, compress: bool) -> None:
    coded = example()
    content = bytearray(packed_file_bytes(coded, {}, compress=compress))
    header, data = unseal(bytes(content))
    start = len(content) - len(data)
    for name in ("a.codes", "ternary.codes", "float.weight"):  # only b is as it was
        begin, end = header[name]["data_offsets"]
        content[start + begin : start + end] = bytes(
            255 - byte for byte in content[start + begin : start + end]
        )
    path = tmp_path / "model.apot.safetensors"
    path.write_bytes(content)
    with pytest.raises(PackedFileError, match="damaged"):
        load_packed(path)
    opened = load_packed(path, lazy=True)
    assert opened.layers["b"].weights().tobytes() == coded.layers["b"].weights().tobytes()
    assert [layer.shape for layer in opened.layers.values()] == [
        layer.shape for layer in coded.layers.values()
    ]
    for name in ("a", "ternary", "float"):
        for _ in range(2):
            with pytest.raises(PackedFileError, match=rf"damaged(.|\n)*{name}\."):
                opened.layers[name].weights()
    with pytest.raises(PackedFileError, match="damaged"):
        opened.check()
    with pytest.raises(PackedFileError, match="damaged"):
        opened.run(np.zeros((1, 40, 2, 2), dtype=np.float32))


def test_padding_and_numbers_that_are_not_finite_wait_until_they_are_read(tmp_path: Path) -> None:
    content = packed_file_bytes(stored_network(a=skewed(4, 8000), b=skewed(4, 40000, 1)), {})
    header, data = unseal(content)
    begin, _ = header[next(name for name in header if name.startswith("_padding."))]["data_offsets"]
    padded = bytearray(content)
    padded[len(content) - len(data) + begin] = 1
    path = tmp_path / "model.apot.safetensors"
    path.write_bytes(padded)
    assert load_packed(path, lazy=True).layers["b"].weights().size
    with pytest.raises(PackedFileError, match="zeros in _padding"):
        load_packed(path)
    path.write_bytes(resealed(content, "float.weight", {2: 0x80, 3: 0x7F}))
    opened = load_packed(path, lazy=True)
    with pytest.raises(PackedFileError, match="not finite"):
        opened.layers["float"].weights()
