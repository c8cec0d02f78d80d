"""The packed file: what goes in comes out, and whatever is damaged is refused by name."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load as load_safetensors

from apot_export.artifacts.packed import PackedNetwork, load_packed
from apot_export.artifacts.packed.writing import packed_file_bytes
from apot_export.errors import PackedFileError
from apot_export.network import CodedLayer, FloatLayer, Network, ScaleBias
from conformance.files import seal, unseal
from tests.support.networks import network_of, small_network
from tests.support.packed_files import PROVENANCE, load, packed, refusal

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


# --- what goes in comes out -----------------------------------------------------------------------


def test_round_trip(tmp_path: Path) -> None:
    loaded = load(tmp_path, packed())
    assert loaded.provenance == PROVENANCE
    original, found = small_network(), loaded.network
    for field in ("input", "input_shape", "output", "shapes"):
        assert getattr(found, field) == getattr(original, field)
    for expected, node in zip(original.nodes, found.nodes, strict=True):
        assert (node.name, node.inputs) == (expected.name, expected.inputs)
        if isinstance(expected.operation, ScaleBias):
            assert isinstance(node.operation, ScaleBias)
            assert node.operation.scale.tobytes() == expected.operation.scale.tobytes()
            assert node.operation.bias.tobytes() == expected.operation.bias.tobytes()
        else:
            assert node.operation == expected.operation
    assert list(loaded.layers) == list(original.layers)
    for name, layer in original.layers.items():
        twin = loaded.layers[name]
        assert twin.weights().tobytes() == layer.weights().tobytes()
        assert twin.shape == layer.shape
        if isinstance(layer, CodedLayer):
            assert isinstance(twin, CodedLayer)
            assert twin.codes.tobytes() == layer.codes.tobytes()
            assert (twin.step, twin.alpha) == (layer.step, layer.alpha)
            assert (twin.codebook, twin.activation) == (layer.codebook, layer.activation)
    images = np.random.default_rng(1).normal(size=(5, 3, 9, 8)).astype(np.float32)
    assert (
        loaded.run(images).tobytes()
        == PackedNetwork(network=original, provenance={}).run(images).tobytes()
    )


def test_same_network_same_bytes(tmp_path: Path) -> None:
    packed.cache_clear()
    before = packed()
    small_network.cache_clear()
    packed.cache_clear()
    assert packed() == before
    reordered = dict(reversed(PROVENANCE.items()))
    assert packed_file_bytes(load(tmp_path, before).network, reordered) == before
    content = json.loads(unseal(before)[0]["__metadata__"]["network"])
    books = [json.dumps(book) for book in content["codebooks"]]
    assert len(books) == len(set(books))


def one_layer(weight: NDArray[Any]) -> bytes:
    """Write a network of one large float layer behind two parameters."""
    scale = ScaleBias(scale=np.ones(2, dtype=np.float32), bias=np.zeros(1, dtype=np.float32))
    layer = FloatLayer(name="layer", stored=weight.astype(np.float32))
    return packed_file_bytes(network_of([layer], [("node", scale, "image")], (2, 1, 1)), {})


def test_tensors_are_aligned_in_the_file_and_read_only(tmp_path: Path) -> None:
    header, data = unseal(packed())
    start = len(packed()) - len(data)
    tensors = [name for name in header if not name.startswith(("_padding.", "__metadata__"))]
    assert len(tensors) == 1 + 1 + 4  # parameters, the float layer, coded layers
    assert start % 64 == 0
    for name in tensors:
        begin, end = header[name]["data_offsets"]
        item = 4 if header[name]["dtype"] == "F32" else 1
        assert begin % (64 if end - begin >= 16384 else item) == 0
    large = one_layer(np.ones((33, 512)))
    names = [name for name in unseal(large)[0] if name != "__metadata__"]
    assert names == ["parameters", "_padding.1", "layer.weight"]
    assert unseal(large)[0]["layer.weight"]["data_offsets"][0] == 64
    layer = load(tmp_path, packed()).layers["wide"]
    assert isinstance(layer, CodedLayer)
    assert not layer.packed.flags.writeable
    assert not layer.packed.flags.owndata


def test_a_directory_stands_for_the_file_in_it(tmp_path: Path) -> None:
    load(tmp_path, packed())
    assert list(load_packed(str(tmp_path)).layers) == list(small_network().layers)


def test_the_safetensors_library_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "model.apot.safetensors"
    path.write_bytes(packed())
    tensors = load_safetensors(packed())
    for name, layer in small_network().layers.items():
        if isinstance(layer, FloatLayer):
            np.testing.assert_array_equal(tensors[f"{name}.weight"], layer.weights())
        else:
            assert isinstance(layer, CodedLayer)
            np.testing.assert_array_equal(tensors[f"{name}.codes"], layer.packed)
    with safe_open(path, framework="np") as file:
        metadata = file.metadata()
    assert (metadata["format"], metadata["format_version"]) == ("apot-packed", "2")
    assert json.loads(metadata["provenance"]) == PROVENANCE


def test_the_writer_refuses_what_the_format_cannot_store() -> None:
    with pytest.raises(ValueError, match="JSON"):
        packed_file_bytes(small_network(), {"accuracy": math.nan})
    layer = FloatLayer(name="_padding", stored=np.ones((1, 1), dtype=np.float32))
    reserved = Network[Any](
        nodes=(), layers={"_padding": layer}, input="x", input_shape=(1, 1, 1), output="x"
    )
    with pytest.raises(ValueError, match=r"_padding\.weight"):
        packed_file_bytes(reserved, {})


# --- damage ---------------------------------------------------------------------------------------


def test_every_truncation_and_every_surplus_is_refused(tmp_path: Path) -> None:
    size = len(packed())
    lengths = {*range(80), *range(0, size, 97), *range(size - 70, size)}
    for length in sorted(lengths):
        refusal(tmp_path, packed()[:length])
    for surplus in (1, 63, 64, 4096):
        assert "truncated or damaged" in refusal(tmp_path, packed() + bytes(surplus))


def test_a_flipped_bit_names_its_tensor(tmp_path: Path) -> None:
    header, data = unseal(packed())
    start = len(packed()) - len(data)
    del header["__metadata__"]
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        for position in {begin, (begin + end) // 2, end - 1}:
            damaged = bytearray(packed())
            damaged[start + position] ^= 1 << position % 8
            assert f"{name}" in refusal(tmp_path, bytes(damaged)), (name, position)


def test_a_flipped_bit_of_the_header_is_refused(tmp_path: Path) -> None:
    size = len(packed()) - len(unseal(packed())[1])
    bits = {*range(50 * 8), *range(0, size * 8, 29), *range((size - 3) * 8, size * 8)}
    for bit in sorted(bits):
        damaged = bytearray(packed())
        damaged[bit // 8] ^= 1 << bit % 8
        refusal(tmp_path, bytes(damaged))


@pytest.mark.parametrize(
    ("member", "value"), [("format_version", "4"), ("format_version", "01"), ("format", "other")]
)
def test_another_format_or_version_is_named(tmp_path: Path, member: str, value: str) -> None:
    header, data = unseal(packed())
    header["__metadata__"][member] = value
    del header["__metadata__"]["checksums"]  # another version need not have them
    message = refusal(tmp_path, seal(header, data))
    assert "format or version" in message
    assert value in message


def test_what_is_no_packed_file_is_called_so(tmp_path: Path) -> None:
    plain = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    safetensors = len(plain).to_bytes(8, "little") + plain + b"x"
    for content in (safetensors, b"\x89PNG\r\n\x1a\n" * 9, b"just some text, " * 9):
        assert "not a packed network" in refusal(tmp_path, content)
    missing = tmp_path / "missing.apot.safetensors"
    with pytest.raises(PackedFileError, match=r"missing\.apot\.safetensors"):
        load_packed(missing)
    (tmp_path / "model.apot.safetensors").unlink()
    with pytest.raises(PackedFileError, match="cannot be opened"):
        load_packed(tmp_path)


def test_json_that_is_nested_very_deeply_is_refused(tmp_path: Path) -> None:
    header, data = unseal(packed())
    text = json.dumps(header, separators=(",", ":"))
    refusal(tmp_path, seal(text[:-1] + ',"x":' + "[" * 100_000, data))
    header["__metadata__"]["network"] = "[" * 100_000
    assert "well formed" in refusal(tmp_path, seal(header, data))
