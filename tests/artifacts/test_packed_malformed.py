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

from apot_export.artifacts.packed import PackedNetwork
from apot_export.artifacts.packed.writing import packed_file_bytes
from apot_export.errors import PackedFileError
from apot_export.network import (
    Convolution,
    FloatLayer,
    Operation,
    QuantizeActivation,
    Relu,
    ScaleBias,
)
from tests.support.malformed_networks import MALFORMED, described, mutate, with_network
from tests.support.networks import network_of
from tests.support.packed_files import load, packed, refusal, seal, unseal

if TYPE_CHECKING:
    from pathlib import Path

RANDOM = settings(derandomize=True, deadline=None, max_examples=250)


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
    layer = FloatLayer(name="layer", stored=np.array(weight, dtype=np.float32))
    return packed_file_bytes(network_of([layer], [("node", operation, "image")], shape), {})


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
    assert "parameters: float32 [2, 2]" in refusal(tmp_path, seal(header, data))
    for stated, reason in (
        ([2, 3], "a run ends at 3, the next is at 4"),
        ([2, 5], "numbers 2 to 5 of 4 parameters"),
        ([0, 2], "a run ends at 2, the next is at 0"),
        ([4, 2], "numbers 4 to 2 of 4 parameters"),
        ([2], "unpack"),
        (0, "a run ends at 2, the next is at 4"),
    ):
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

    large, octets = unseal(one_node(pair, np.ones((2, 2048))))
    assert list(large) == ["__metadata__", "parameters", "_padding.1", "layer.weight"]
    del large["_padding.1"]
    large["layer.weight"]["data_offsets"] = [16, 16 + 16384]
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
    assert mutated == entries, mutated
