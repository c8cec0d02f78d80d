"""The packed file: what goes in comes out, and whatever is damaged is refused by name."""

from __future__ import annotations

import copy
import json
import math
import zlib
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load as load_safetensors

from apot_export.codebook import apot, apot_candidates, uniform
from apot_export.encode import encode_network
from apot_export.errors import PackedFileError
from apot_export.network import (
    ActivationQuantizer,
    Add,
    AveragePool,
    CodedLayer,
    CodedNetwork,
    Convolution,
    EightBitWeights,
    Flatten,
    FloatLayer,
    GlobalAveragePool,
    Linear,
    MaxPool,
    Network,
    Node,
    Operation,
    Relu,
    ScaleBias,
    SourceLayer,
    WeightQuantizer,
)
from apot_export.packfile import PackedNetwork, load_packed, packed_file_bytes

if TYPE_CHECKING:
    from pathlib import Path

Json = dict[str, Any]
RANDOM = settings(derandomize=True, deadline=None, max_examples=250)
PROVENANCE = {"tool": "test", "checkpoint": "große_daten.pth", "bits": 4}


@cache
def network() -> CodedNetwork:
    """Build a network with every operation, every kind of layer and a residual branch."""
    rng = np.random.default_rng(7)

    def weights(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        return rng.normal(size=shape).astype(np.float32)

    def layer(name: str, bits: int, *shape: int) -> SourceLayer:
        book = apot(bits, signed=True)
        rule = WeightQuantizer(
            codebook=book,
            alpha=np.float32(-1.7),
            rule="nearest",
            candidates=apot_candidates(bits),
        )
        levels = ActivationQuantizer(codebook=apot(bits, signed=False), alpha=np.float32(1.3))
        return SourceLayer(name=name, weight=weights(*shape), quantizer=rule, activation=levels)

    last = uniform(2, signed=False)
    layers = [
        SourceLayer(name="first", weight=weights(6, 3, 3, 3), quantizer=EightBitWeights()),
        layer("grouped", 2, 6, 3, 3, 3),
        layer("wide", 4, 5, 6, 1, 1),
        SourceLayer(name="float", weight=weights(3, 5, 1, 1), quantizer=None),
        SourceLayer(
            name="last",
            weight=weights(4, 3),
            quantizer=EightBitWeights(),
            bias=weights(4),
            activation=ActivationQuantizer(codebook=last, alpha=np.float32(0.7)),
        ),
    ]
    batch_norm = ScaleBias(scale=weights(6).astype(float), bias=weights(6).astype(float))
    grouped = Convolution(layer="grouped", padding=(2, 1), dilation=(2, 1), groups=2)
    graph: list[tuple[str, Operation, tuple[str, ...]]] = [
        ("first", Convolution(layer="first", stride=(2, 1), padding=(1, 1)), ("image",)),
        ("norm", batch_norm, ("first",)),
        ("relu", Relu(), ("norm",)),
        ("pool", MaxPool(kernel=(2, 3), stride=(1, 2), padding=(1, 1)), ("relu",)),
        ("branch", grouped, ("pool",)),
        ("sum", Add(), ("branch", "pool")),
        ("wide", Convolution(layer="wide"), ("sum",)),
        ("mean", AveragePool(kernel=(2, 2), stride=(1, 2)), ("wide",)),
        ("mixed", Convolution(layer="float"), ("mean",)),
        ("global", GlobalAveragePool(), ("mixed",)),
        ("flat", Flatten(), ("global",)),
        ("logits", Linear(layer="last"), ("flat",)),
    ]
    return encode_network(
        Network[SourceLayer](
            nodes=tuple(Node(name=n, inputs=sources, operation=op) for n, op, sources in graph),
            layers={layer.name: layer for layer in layers},
            input="image",
            input_shape=(3, 9, 8),
            output="logits",
        )
    )


@cache
def packed() -> bytes:
    return packed_file_bytes(network(), PROVENANCE)


def unseal(content: bytes) -> tuple[Json, bytes]:
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def seal(header: Json | str, data: bytes) -> bytes:
    """Write a file with a right header checksum around whatever the header says."""
    text = header if isinstance(header, str) else json.dumps(header, separators=(",", ":"))
    raw = text.encode()
    raw += b" " * (-(8 + len(raw)) % 64)
    raw = raw[:33] + b"00000000" + raw[41:]
    raw = raw[:33] + b"%08x" % zlib.crc32(raw) + raw[41:]
    return len(raw).to_bytes(8, "little") + raw + data


def with_network(content: object) -> bytes:
    header, data = unseal(packed())
    header["__metadata__"]["network"] = json.dumps(content)
    return seal(header, data)


def described() -> Json:
    return dict(json.loads(unseal(packed())[0]["__metadata__"]["network"]))


def load(folder: Path, content: bytes) -> PackedNetwork:
    path = folder / "model.apot.safetensors"
    path.write_bytes(content)
    return load_packed(path)


def refusal(folder: Path, content: bytes) -> str:
    with pytest.raises(PackedFileError) as caught:
        load(folder, content)
    assert caught.value.where is not None
    assert caught.value.where.startswith(str(folder))
    return str(caught.value)


# --- what goes in comes out -----------------------------------------------------------------------


def test_round_trip(tmp_path: Path) -> None:
    loaded = load(tmp_path, packed())
    assert loaded.provenance == PROVENANCE
    original, found = network(), loaded.network
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
    network.cache_clear()
    packed.cache_clear()
    assert packed() == before
    assert packed_file_bytes(load(tmp_path, before).network, PROVENANCE) == before


def test_tensors_are_aligned_in_the_file_and_read_only(tmp_path: Path) -> None:
    header, data = unseal(packed())
    start = len(packed()) - len(data)
    tensors = [name for name in header if not name.startswith(("_padding.", "__metadata__"))]
    assert len(tensors) == 4 * 2 + 1 + 5 * 2  # coded layers, the float layer, ScaleBias nodes
    assert {(start + header[name]["data_offsets"][0]) % 64 for name in tensors} == {0}
    layer = load(tmp_path, packed()).layers["wide"]
    assert isinstance(layer, CodedLayer)
    assert not layer.packed.flags.writeable
    assert not layer.packed.flags.owndata


def test_a_directory_stands_for_the_file_in_it(tmp_path: Path) -> None:
    load(tmp_path, packed())
    assert list(load_packed(str(tmp_path)).layers) == list(network().layers)


def test_the_safetensors_library_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "model.apot.safetensors"
    path.write_bytes(packed())
    tensors = load_safetensors(packed())
    for name, layer in network().layers.items():
        if isinstance(layer, FloatLayer):
            np.testing.assert_array_equal(tensors[f"{name}.weight"], layer.weight)
        else:
            np.testing.assert_array_equal(tensors[f"{name}.codes"], layer.packed)
    with safe_open(path, framework="np") as file:
        metadata = file.metadata()
    assert (metadata["format"], metadata["format_version"]) == ("apot-packed", "1")
    assert json.loads(metadata["provenance"]) == PROVENANCE


def test_the_writer_refuses_what_the_format_cannot_store() -> None:
    with pytest.raises(ValueError, match="JSON"):
        packed_file_bytes(network(), {"accuracy": math.nan})
    layer = FloatLayer(name="_padding", weight=np.ones((1, 1), dtype=np.float32))
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
    assert any(name.startswith("_padding.") for name in header)
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
    ("member", "value"), [("format_version", "2"), ("format_version", "01"), ("format", "other")]
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


def test_filling_bits_must_be_zero_whatever_the_checksum_says(tmp_path: Path) -> None:
    header, data = unseal(packed())
    layer = network().layers["wide"]
    assert isinstance(layer, CodedLayer)
    assert layer.codes.size * layer.codebook.bits % 8 == 6  # 30 codes of 5 bits
    begin, end = header["wide.codes"]["data_offsets"]
    for bit in (6, 7):
        damaged = bytearray(data)
        damaged[end - 1] |= 1 << bit
        checksums = json.loads(header["__metadata__"]["checksums"])
        checksums["wide.codes"] = f"{zlib.crc32(damaged[begin:end]):08x}"
        header["__metadata__"]["checksums"] = json.dumps(checksums)
        assert "filling bits" in refusal(tmp_path, seal(header, bytes(damaged)))


def test_json_that_python_would_let_pass(tmp_path: Path) -> None:
    header, data = unseal(packed())
    text = json.dumps(header, separators=(",", ":"))
    assert load(tmp_path, seal(text, data)).layers
    broken = [
        text[:-1] + ',"x":' + "[" * 100_000,
        text[:-1] + ',"__metadata__":{}}',
        text[:-1] + ',"x":NaN}',
        text.replace('"format_version":"1"', '"format_version":"1","gr\u00fc\u00df":""'),
        text.replace('"format_version":"1"', '"format_version":"1","number":1'),
    ]
    for header_text in broken:
        refusal(tmp_path, seal(header_text, data))
    for content in ("[" * 100_000, '{"input":1,"input":2}', '{"input":NaN}', "", "null"):
        header["__metadata__"]["network"] = content
        assert "well formed" in refusal(tmp_path, seal(header, data))


# --- malformed networks ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["codebooks", 0, "denominator"], 0),
        (["codebooks", 0, "denominator"], math.inf),
        (["codebooks", 0, "denominator"], "127"),
        (["codebooks", 0, "signed"], "false"),
        (["codebooks", 0, "tables", 0], [0, 3]),
        (["codebooks", 0, "tables", 0], [0, 1 << 40]),
        (["input", "shape"], [3, 9]),
        (["input", "shape"], [3, 1 << 31, 1]),
        (["layers", "first", "codebook"], -1),
        (["layers", "first", "codebook"], 99),
        (["layers", "first", "kind"], "sparse"),
        (["layers", "first", "shape"], [-6, -3, 3, 3]),
        (["layers", "first", "shape"], [1 << 32, 1 << 32]),
        (["layers", "first", "step"], 10**400),
        (["layers", "wide", "activation", "alpha"], 0),
        (["layers", "wide", "activation", "alpha"], -1.5),
        (["layers", "wide", "activation", "alpha"], 1e300),
        (["layers", "wide", "activation", "alpha"], 1e-44),
        (["layers", "wide", "activation"], None),
        (["layers", "float", "shape"], [3, 5, 1, 1]),
        (["nodes", 0, "stride"], [0, 1]),
        (["nodes", 0, "stride"], [1, 1, 1]),
        (["nodes", 0, "padding"], [-1, 0]),
        (["nodes", 0, "dilation"], [1.0, 1]),
        (["nodes", 0, "groups"], True),
        (["nodes", 0, "inputs"], ["logits"]),
        (["nodes", 0, "inputs"], ["image", "image"]),
        (["nodes", 0, "inputs"], "image"),
        (["nodes", 0, "layer"], "nowhere"),
        (["nodes", 0, "operation"], "Softmax"),
        (["nodes", 0, "ceil_mode"], False),
        (["nodes", 3, "padding"], [2, 0]),
        (["nodes", 4, "layer"], "wide"),
        (["nodes", 5, "inputs"], ["pool"]),
        (["nodes", 7, "inputs"], ["branch.sums", "pool"]),
        (["output"], "branch.levels"),
        (["output"], "nowhere"),
        (["extra"], {}),
    ],
    ids=str,
)  # fmt: skip
def test_a_malformed_network_is_refused(
    tmp_path: Path, path: list[str | int], value: object
) -> None:
    content = described()
    assert load(tmp_path, with_network(content)).layers
    parent: Any = content
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    assert "well formed" in refusal(tmp_path, with_network(content))


def test_outputs_that_the_groups_do_not_divide_are_refused(tmp_path: Path) -> None:
    content = described()
    content["layers"]["grouped"]["shape"] = [3, 2, 3, 3]  # as many weights, 3 groups of 2 inputs
    assert "well formed" in refusal(tmp_path, with_network(content))


def places(content: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    keys: list[Any] = list(content) if isinstance(content, dict) else []
    keys = list(range(len(content))) if isinstance(content, list) else keys
    return [path, *(place for key in keys for place in places(content[key], (*path, key)))]


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 9),
    st.sampled_from([127, 1 << 31, 1 << 63, 10**30, 0.5, 1e-30, 1e39, 1e999, -1.0, "", "image"]),
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4), max_leaves=4)


def mutate(data: st.DataObject, content: Any) -> Any:
    """Replace or remove one random part of a JSON document, or copy another part over it."""
    place = data.draw(st.sampled_from(places(content)))
    source: Any = content
    for key in data.draw(st.sampled_from(places(content))):
        source = source[key]
    value = data.draw(st.one_of(VALUES, st.just(copy.deepcopy(source))))
    if not place:
        return value
    parent: Any = content
    for key in place[:-1]:
        parent = parent[key]
    if data.draw(st.integers(0, 3)) == 0:
        del parent[place[-1]]
    else:
        parent[place[-1]] = value
    return content


@RANDOM
@given(st.data())
def test_a_mutated_network_is_refused_or_runs(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = with_network(mutate(data, described()))
    try:
        loaded = load(tmp_path_factory.mktemp("fuzz"), content).network
    except PackedFileError:
        return
    if max(map(math.prod, loaded.shapes.values())) < 1 << 16:
        image = np.full((1, *loaded.input_shape), 0.5, dtype=np.float32)
        shape = PackedNetwork(network=loaded, provenance={}).run(image).shape
        assert shape == (1, *loaded.shapes[loaded.output])


@RANDOM
@given(st.data())
def test_a_mutated_container_is_refused_or_the_same(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    header, tensors = unseal(packed())
    entries = {name: header[name] for name in header if name != "__metadata__"}
    mutated = mutate(data, copy.deepcopy(entries))
    if not isinstance(mutated, dict):
        return
    content = seal({"__metadata__": header["__metadata__"], **mutated}, tensors)
    try:
        load(tmp_path_factory.mktemp("fuzz"), content)
    except PackedFileError:
        return
    assert mutated == entries
