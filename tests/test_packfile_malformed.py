"""Networks that a packed file states badly, under right checksums: refused, never misread."""

from __future__ import annotations

import copy
import json
import math
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apot_export.errors import PackedFileError
from apot_export.network import (
    Convolution,
    FloatLayer,
    Network,
    Node,
    Operation,
    QuantizeActivation,
    Relu,
    ScaleBias,
)
from apot_export.packfile import PackedNetwork, packed_file_bytes
from tests._small_networks import Json, load, packed, refusal, seal, unseal

if TYPE_CHECKING:
    from pathlib import Path

RANDOM = settings(derandomize=True, deadline=None, max_examples=250)


def with_network(content: object) -> bytes:
    header, data = unseal(packed())
    header["__metadata__"]["network"] = json.dumps(content)
    return seal(header, data)


def described() -> Json:
    return dict(json.loads(unseal(packed())[0]["__metadata__"]["network"]))


MALFORMED: list[tuple[str, object, str]] = [
    ("codebooks 0 denominator", 0, "must be positive"),
    ("codebooks 0 denominator", 1 << 24, "at most 2^23"),
    ("codebooks 0 denominator", math.inf, "no JSON number"),
    ("codebooks 0 denominator", "127", "an integer"),
    ("codebooks 0 signed", "false", "true or false"),
    ("codebooks 0 tables 0", [0, 3], "a power of two"),
    ("codebooks 0 tables 0", [0, 1 << 40], "an integer"),
    ("input shape", [3, 9], "unpack"),
    ("input shape", [3, 1 << 31, 1], "an integer"),
    ("layers first codebook", -1, "an integer"),
    ("layers first codebook", 99, "an integer"),
    ("layers first kind", "sparse", "unknown kind"),
    ("layers first shape", [-6, -3, 3, 3], "an integer"),
    ("layers first shape", [1 << 32, 1 << 32], "an integer"),
    ("layers first shape", [6, 3, 3, 4], "first.codes"),
    ("layers first step", 10**400, "a finite number"),
    ("layers wide activation alpha", 0, "is not positive"),
    ("layers wide activation alpha", -1.5, "is not positive"),
    ("layers wide activation alpha", 1e300, "is not positive"),
    ("layers wide activation alpha", 1e-44, "is too small"),
    ("layers wide activation codebook", 1, "must not be negative"),
    ("layers wide activation", None, "no input quantizer"),
    ("layers float shape", [3, 5, 1, 1], "an object of kind"),
    ("nodes 0 stride", [0, 1], "an integer"),
    ("nodes 0 stride", [1, 1, 1], "unpack"),
    ("nodes 0 padding", [-1, 0], "an integer"),
    ("nodes 0 dilation", [1.0, 1], "an integer"),
    ("nodes 0 dilation", [0, 1], "from 1"),
    ("nodes 0 groups", True, "an integer"),
    ("nodes 0 inputs", ["logits"], "no earlier node"),
    ("nodes 0 inputs", ["image", "image"], "number of inputs"),
    ("nodes 0 inputs", "image", "an array"),
    ("nodes 0 layer", "nowhere", "does not exist"),
    ("nodes 0 operation", "Softmax", "Softmax"),
    ("nodes 0 ceil_mode", False, "an object of"),
    ("nodes 3 kernel", [0, 3], "from 1"),
    ("nodes 3 padding", [2, 0], "in the padding alone"),
    ("nodes 4 layer", "wide", "levels of wide"),
    ("nodes 5 inputs", ["pool"], "float32 values"),
    ("nodes 7 inputs", ["branch.sums", "pool"], "accumulators"),
    ("nodes -1 operation", "GlobalAveragePool", "without height and width"),
    ("output", "branch.levels", "levels of grouped"),
    ("output", "nowhere", "no node"),
    ("extra", {}, "an object of"),
]


@pytest.mark.parametrize(("path", "value", "reason"), MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_network_is_refused(
    tmp_path: Path, path: str, value: object, reason: str
) -> None:
    content = described()
    content["nodes"].append({"name": "again", "operation": "Relu", "inputs": ["flat"]})
    assert load(tmp_path, with_network(content)).layers
    *keys, last = [int(key) if key.lstrip("-").isdigit() else key for key in path.split()]
    parent: Any = content
    for key in keys:
        parent = parent[key]
    parent[last] = value
    message = refusal(tmp_path, with_network(content))
    assert "well formed" in message
    assert reason in message


def one_node(operation: Operation, weight: Any, shape: tuple[int, ...] = (2, 1, 1)) -> bytes:
    layer = FloatLayer(name="layer", weight=np.array(weight, dtype=np.float32))
    node = Node(name="node", inputs=("image",), operation=operation)
    return packed_file_bytes(
        Network[Any](
            nodes=(node,), layers={"layer": layer}, input="image", input_shape=shape, output="node"
        ),
        {},
    )


def test_what_only_the_tensors_or_the_geometry_show(tmp_path: Path) -> None:
    ones = np.ones((4, 1, 1, 1))
    grouped = Convolution(layer="layer", groups=2)
    assert load(tmp_path, one_node(grouped, ones)).network.shapes["node"] == (4, 1, 1)
    assert "groups do not divide" in refusal(tmp_path, one_node(grouped, ones[:3]))
    assert "not finite" in refusal(tmp_path, one_node(grouped, ones * math.nan))
    assert "not finite" in refusal(tmp_path, one_node(grouped, ones * math.inf))
    assert "weights of shape [4]" in refusal(tmp_path, one_node(Relu(), ones[:, 0, 0, 0]))
    unquantized = one_node(QuantizeActivation(layer="layer"), ones)
    assert "no input quantizer" in refusal(tmp_path, unquantized)
    assert "too large" in refusal(tmp_path, one_node(Relu(), ones, (2, 1 << 15, 1 << 15)))
    wide = ScaleBias(scale=np.ones(2, dtype=np.float32), bias=np.ones(2, dtype=np.float32))
    header, data = unseal(one_node(wide, ones))
    header["parameters"].update(dtype="U8", shape=[16])
    assert "parameters: uint8" in refusal(tmp_path, seal(header, data))
    header["parameters"].update(dtype="F32", shape=[2, 2])
    assert "parameters: [2, 2]" in refusal(tmp_path, seal(header, data))
    for stated, reason in (([1], "1 that nothing has"), ([3], "more parameters than there are")):
        header, data = unseal(one_node(wide, ones))
        content = json.loads(header["__metadata__"]["network"])
        content["nodes"][0]["bias"] = stated
        header["__metadata__"]["network"] = json.dumps(content)
        assert reason in refusal(tmp_path, seal(header, data))
    header, data = unseal(one_node(Relu(), ones))
    header["__metadata__"]["network"] = json.dumps(
        {**json.loads(header["__metadata__"]["network"]), "layers": {}}
    )
    assert "has the tensor layer.weight" in refusal(tmp_path, seal(header, data))


def test_malformed_containers(tmp_path: Path) -> None:
    pair = ScaleBias(scale=np.ones(2, dtype=np.float32), bias=np.ones(2, dtype=np.float32))
    content = one_node(pair, np.ones((2, 8)))
    header, data = unseal(content)
    assert seal(header, data) == content
    assert list(header) == ["__metadata__", "parameters", "layer.weight"]

    large, octets = unseal(one_node(pair, np.ones((2, 512))))
    assert list(large) == ["__metadata__", "parameters", "_padding.1", "layer.weight"]
    del large["_padding.1"]
    large["layer.weight"]["data_offsets"] = [16, 16 + 4096]
    assert "multiple of 64" in refusal(tmp_path, seal(large, octets[:16] + octets[64:]))

    size = len(data)
    empty = {**header, "empty": {"dtype": "U8", "shape": [0], "data_offsets": [size, size]}}
    assert "from 1" in refusal(tmp_path, seal(empty, data))

    stated = header["__metadata__"]["checksums"]
    for checksums in (stated[:-8], stated[:-1], stated + "00000000", ""):
        metadata = {**header["__metadata__"], "checksums": checksums}
        wrong = seal({**header, "__metadata__": metadata}, data)
        assert "a checksum for every tensor" in refusal(tmp_path, wrong)

    raw = content[8 : len(content) - len(data)] + b" "
    raw = raw[:33] + b"%08x" % zlib.crc32(raw[:33] + b"00000000" + raw[41:]) + raw[41:]
    odd = len(raw).to_bytes(8, "little") + raw + data
    assert "multiple of 64" in refusal(tmp_path, odd)


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
