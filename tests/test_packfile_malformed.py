"""Networks that a packed file states badly, under right checksums: refused, never misread."""

from __future__ import annotations

import copy
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apot_export.errors import PackedFileError
from apot_export.network import Convolution, FloatLayer, Network, Node, Operation, Relu, ScaleBias
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
    wide = ScaleBias(scale=np.ones(2, dtype=np.float32), bias=np.ones(2, dtype=np.float32))
    header, data = unseal(one_node(wide, ones))
    header["node.scale"].update(dtype="U8", shape=[8])
    assert "node.scale: uint8" in refusal(tmp_path, seal(header, data))
    header, data = unseal(one_node(Relu(), ones))
    header["__metadata__"]["network"] = json.dumps(
        {**json.loads(header["__metadata__"]["network"]), "layers": {}}
    )
    assert "has the tensor layer.weight" in refusal(tmp_path, seal(header, data))


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
