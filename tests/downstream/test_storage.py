"""The stand-alone reader on digits and entropy-coded codes, beside the product's reader."""

from __future__ import annotations

import json
import struct
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apot_export import downstream
from apot_export.artifacts.directory import PACKED_MODEL
from apot_export.artifacts.packed import _digits, _rans, load_packed
from apot_export.artifacts.packed._rans import Coding
from apot_export.artifacts.packed.writing import packed_file_bytes
from apot_export.conversion.convert import convert
from apot_export.conversion.convert_export import convert_export
from apot_export.downstream._codes import read_codes
from apot_export.network import CodedLayer, CodedNetwork
from apot_export.network.bitpack import pack
from apot_export.network.codebook import Codebook, apot, power_of_two, uniform
from apot_export.original.choices import Choices
from conformance.files import unseal
from tests.support.format_vectors import Vector, integers, vectors
from tests.support.malformed_networks import SCALARS, both_readers
from tests.support.networks import Builder, images_of, quantizer
from tests.support.packed_files import as_codes, example, resealed, skewed, with_storage
from tests.support.published import PUBLISHED, Shelf

RANDOM = settings(derandomize=True, deadline=None, max_examples=300)
BOOKS = [
    *(apot(bits, signed=True) for bits in range(2, 7)),
    *(uniform(bits, signed=True) for bits in range(1, 6)),
    power_of_two(3, signed=True),
]


def stored_as(vector: Vector) -> tuple[Any, ...]:
    """Return the arguments of `read_codes` for a vector of FORMAT.md."""
    stream = np.frombuffer(bytes.fromhex("".join(vector["bytes"])), np.uint8)
    (bits,) = integers(vector["bits"])
    if "digits" in vector:
        storage = {"digits": integers(vector["digits"])}
    else:
        storage = {"entropy": integers(vector["precision"] + vector["lanes"])}
    return stream, storage, bits, len(vector["codes"]), "x"


# --- FORMAT.md ------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", [*vectors("digits"), *vectors("entropy")])
def test_the_storages_of_the_specification(vector: Vector) -> None:
    assert read_codes(*stored_as(vector)).tolist() == integers(vector["codes"])


def entropy_stream(frequencies: list[int], states: list[int], words: list[int]) -> Any:
    layout = f"<{len(frequencies)}H{len(states)}I{len(words)}H"
    return np.frombuffer(struct.pack(layout, *frequencies, *states, *words), np.uint8)


def test_a_file_of_few_bytes_needs_little_memory() -> None:
    refused: list[tuple[Any, list[int], int]] = [
        (entropy_stream([16, 0], [1 << 16], []), [4, 2**31 - 1], 1 << 40),
        (entropy_stream([16, 0], [1 << 16], []), [4, 2**31 - 1], 8),
        (entropy_stream([16, 0], [1 << 16], []), [4, 1], 1 << 40),
        (entropy_stream([16, 0], [1 << 16], [0] * 500), [4, 1], 1 << 20),
        (entropy_stream([16, 0], [1 << 16], [0] * 4000), [4, 1], 1 << 22),  # too many turns
    ]
    tracemalloc.start()
    try:
        for stream, coding, count in refused:
            with pytest.raises(ValueError, match=r"\S"):
                read_codes(stream, {"entropy": coding}, 1, count, "x")
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()


# --- the product's coders -------------------------------------------------------------------------


@RANDOM
@given(st.data())
def test_both_decoders_find_the_same_or_refuse(data: st.DataObject) -> None:
    bits, size = data.draw(st.integers(1, 16)), data.draw(st.integers(1, 900))
    kept = data.draw(st.sampled_from([bits, min(bits, 3)]))
    drawn = skewed(max(bits, 2), size, data.draw(st.integers(0, 9)))
    codes = as_codes(drawn & ((1 << kept) - 1), bits)
    least = max(_rans.LEAST_PRECISION, (len(np.unique(codes)) - 1).bit_length())
    precision = data.draw(st.integers(least, _rans.MOST_PRECISION))
    lanes = data.draw(st.integers(1, 60))
    stream, _ = _rans.encode(codes, bits, Coding(precision=precision, lanes=lanes))
    found = read_codes(stream, {"entropy": [precision, lanes]}, bits, size, "x")
    np.testing.assert_array_equal(found, codes)
    damaged = bytearray(stream.tobytes())
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    del damaged[len(damaged) - data.draw(st.sampled_from([0, 0, 0, 1, 2, 9])) :]
    content = np.frombuffer(bytes(damaged), np.uint8)
    count = size + data.draw(st.sampled_from([0, 0, 1, -1, 100, 1 << 40]))
    lanes += data.draw(st.sampled_from([0, 0, 0, 1, -1, 1 << 30]))
    if count < 1 or lanes < 1:
        return
    try:
        product = _rans.decode(content, bits, count, Coding(precision=precision, lanes=lanes))
    except ValueError:
        with pytest.raises(ValueError, match=r"\S"):
            read_codes(content, {"entropy": [precision, lanes]}, bits, count, "x")
        return
    other = read_codes(content, {"entropy": [precision, lanes]}, bits, count, "x")
    np.testing.assert_array_equal(product, other)


@RANDOM
@given(st.data())
def test_both_find_the_same_digits_or_refuse(data: st.DataObject) -> None:
    used = sorted(data.draw(st.sets(st.integers(0, 63), min_size=2, max_size=16)))
    content = np.array(data.draw(st.lists(st.integers(0, 255), min_size=1, max_size=9)), np.uint8)
    content %= data.draw(st.sampled_from([3, 200, 255]))
    places = _digits.digits_of_a_byte(len(used))
    count = max(1, places * len(content) - data.draw(st.integers(-1, 8)))
    try:
        product = _digits.decode_digits(content, used, 6, count)
    except ValueError:
        with pytest.raises(ValueError, match=r"\S"):
            read_codes(content, {"digits": used}, 6, count, "x")
        return
    other = read_codes(content, {"digits": used}, 6, count, "x")
    np.testing.assert_array_equal(product, other)


# --- files ----------------------------------------------------------------------------------------


def assert_same_layers(product: CodedNetwork, other: downstream.DownstreamNetwork) -> None:
    assert product.layers.keys() == other.layers.keys()
    for name, layer in product.layers.items():
        found = other.layers[name]
        assert other.weights(name).tobytes() == layer.weights().tobytes(), name
        if isinstance(layer, CodedLayer):
            assert found.codes is not None
            np.testing.assert_array_equal(found.codes, layer.codes, err_msg=name)


def storages(content: bytes) -> set[str]:
    described = json.loads(unseal(content)[0]["__metadata__"]["network"])["layers"]
    return {kind for layer in described.values() for kind in layer.get("storage") or {"bits": 0}}


@pytest.mark.parametrize("compress", [False, True])
def test_files_of_every_storage(tmp_path: Path, compress: bool) -> None:
    content = packed_file_bytes(example(), {}, compress=compress)
    assert storages(content) >= ({"entropy"} if compress else {"digits", "bits"})
    product, other = both_readers(tmp_path, content)
    assert product is not None
    assert other is not None
    assert_same_layers(product.network, other)


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: f"{book.bits} bits")
def test_random_networks_of_every_width(tmp_path: Path, book: Codebook) -> None:
    builder = Builder(image=(8, 6, 6))
    levels = quantizer(apot(4, signed=False), 1.5)
    value = builder.convolution("image", 64, (3, 3), book, levels, padding=(1, 1))
    value = builder.convolution(value, 64, (3, 3), book, levels, padding=(1, 1))
    network = builder.finished(value)
    # Weights as training leaves them: most are small. Random codes have nothing to compress.
    layers = {}
    for seed, (name, layer) in enumerate(network.layers.items()):
        assert isinstance(layer, CodedLayer)
        order = np.argsort(np.abs(book.levels), kind="stable")
        size = int(np.prod(layer.shape))
        ranks = np.abs(np.random.default_rng(seed).normal(scale=0.2, size=size)) * book.levels.size
        codes = order[np.minimum(ranks.astype(int), book.levels.size - 1)]
        packed = pack(as_codes(codes, book.bits), book.bits)
        layers[name] = replace(layer, stored=packed)
    network = replace(network, layers=layers)
    content = packed_file_bytes(network, {}, compress=True)
    assert "entropy" in storages(content)
    product, other = both_readers(tmp_path, content)
    assert product is not None
    assert other is not None
    assert_same_layers(product.network, other)
    images = images_of(network, 3)
    np.testing.assert_allclose(other.run(images), product.run(images), rtol=1e-4, atol=1e-5)


DESCRIPTIONS = st.recursive(
    st.one_of(SCALARS, st.integers(0, 16)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(["digits", "entropy", "kind"]), inner, max_size=2),
    ),
    max_leaves=5,
)


@settings(RANDOM, max_examples=150)
@given(st.sampled_from(["a", "ternary", "float"]), DESCRIPTIONS)
def test_both_readers_decide_alike_about_storages(
    tmp_path_factory: pytest.TempPathFactory, layer: str, storage: object
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    product, other = both_readers(folder, with_storage(storage, layer))
    assert (product is None) == (other is None)


@settings(RANDOM, max_examples=150)
@given(
    st.sampled_from(["a", "ternary"]),
    st.dictionaries(st.integers(0, 1 << 14), st.integers(0, 255), min_size=1, max_size=3),
)
def test_both_readers_decide_alike_about_damaged_streams(
    tmp_path_factory: pytest.TempPathFactory, layer: str, change: dict[int, int]
) -> None:
    content = packed_file_bytes(example(), {}, compress=layer == "a")
    damaged = resealed(content, f"{layer}.codes", change)
    product, other = both_readers(tmp_path_factory.mktemp("fuzz"), damaged)
    assert (product is None) == (other is None)
    if product is not None and other is not None:
        assert_same_layers(product.network, other)


# --- what was trained -----------------------------------------------------------------------------


@pytest.mark.parametrize("unsigned", [False, True], ids=["signed", "unsigned"])
@pytest.mark.parametrize(
    "name",
    [
        *(f"cifar10_res20_{bits}bit" for bits in (2, 3, 4)),
        *(f"mnist_resnet10_{kind}" for kind in ("3bit", "4bit_uniform", "5bit")),
        *(f"cifar100_res32_2bit_ngrid_z{z}" for z in (2, 4)),
        "res18_4bit",
    ],
)
def test_published_networks_of_every_storage(
    shelf: Shelf, tmp_path: Path, name: str, unsigned: bool
) -> None:
    published = PUBLISHED[name]
    path = shelf.reference / "checkpoints" / published.checkpoint
    export = shelf.export(name)
    if unsigned:
        choices = replace(published.choices or Choices(), unsigned_zeros=True)
        export = convert(path, tmp_path / "plain", choices=choices, trust_options=True).path
    plain = export / PACKED_MODEL
    small = convert_export(export, tmp_path / "small", compress=True).path / PACKED_MODEL
    # The 2-bit network's signed zeros make its codes about equally frequent.
    gains = unsigned or name != "cifar10_res20_2bit"
    assert ("entropy" in storages(small.read_bytes())) == gains
    if unsigned and name == "cifar10_res20_2bit":
        assert "digits" in storages(plain.read_bytes())
    for file in (plain, small):
        assert_same_layers(load_packed(plain).check().network, downstream.load(file))
