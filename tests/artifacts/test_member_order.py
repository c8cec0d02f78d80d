"""The order of JSON members means nothing: languages sort or hash them. Version 1 still loads."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apot_export.artifacts.packed.writing import packed_file_bytes
from apot_export.network import CodedNetwork
from conformance.files import seal, unseal
from tests.support.format_vectors import file_bytes
from tests.support.malformed_networks import both_readers
from tests.support.networks import images_of, small_network
from tests.support.packed_files import (
    ORDERS,
    PROVENANCE,
    as_version_1,
    example,
    load,
    refusal,
    reordered,
)
from tests.support.random_coded_networks import multi_bit_network, plane_network, random_network

VERSION_1 = Path(__file__).parents[1] / "support" / "version_1.apot.safetensors"


def numbered() -> CodedNetwork:
    """Return a network whose layers have the names that a `Sequential` gives them."""
    network = random_network(3)
    names = {name: str(99 - index) for index, name in enumerate(network.layers)}

    def renamed(operation: Any) -> Any:
        layer = getattr(operation, "layer", None)
        return operation if layer is None else replace(operation, layer=names[layer])

    layers: Any = {
        names[name]: replace(layer, name=names[name]) for name, layer in network.layers.items()
    }
    nodes = tuple(replace(node, operation=renamed(node.operation)) for node in network.nodes)
    return replace(network, layers=layers, nodes=nodes)


NETWORKS: dict[str, Callable[[], CodedNetwork]] = {
    "small": small_network,
    "random": lambda: random_network(5),
    "numbered layers": numbered,
    "sign vectors": lambda: multi_bit_network(4, 0, position_major=True),
    "sign vectors of terms": lambda: multi_bit_network(4, 2, position_major=False),
    "groups across outputs": lambda: plane_network(3),
    "digits": example,
}


def assert_same_network(
    folder: Path, content: bytes, written: bytes, network: CodedNetwork
) -> None:
    """Hold what both readers make of a file against the network that it was written from."""
    product, other = both_readers(folder, content)
    assert product is not None
    assert other is not None
    assert packed_file_bytes(product.network, product.provenance) == written
    _, twin = both_readers(folder, written)
    assert twin is not None
    assert other.layers.keys() == network.layers.keys()
    for name, layer in network.layers.items():
        assert other.weights(name).tobytes() == layer.weights().tobytes(), name
    images = images_of(network, 2)
    assert other.run(images).tobytes() == twin.run(images).tobytes()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", NETWORKS)
def test_members_in_any_order_are_the_same_network(tmp_path: Path, kind: str, order: str) -> None:
    network = NETWORKS[kind]()
    written = packed_file_bytes(network, PROVENANCE)
    content = reordered(written, ORDERS[order])
    if kind == "numbered layers" and order in {"sorted", "reversed"}:
        stated = [json.loads(unseal(c)[0]["__metadata__"]["network"]) for c in (content, written)]
        assert list(stated[0]["layers"]) != list(stated[1]["layers"])
    assert_same_network(tmp_path, content, written, network)


@pytest.mark.parametrize("order", ORDERS)
def test_compressed_files_in_any_order(tmp_path: Path, order: str) -> None:
    content = packed_file_bytes(example(), {}, compress=True)
    network = load(tmp_path, reordered(content, ORDERS[order])).network
    assert packed_file_bytes(network, {}, compress=True) == content


@pytest.mark.parametrize("kind", NETWORKS)
def test_version_1_is_the_same_network(tmp_path: Path, kind: str) -> None:
    network = NETWORKS[kind]()
    written = packed_file_bytes(network, PROVENANCE)
    assert_same_network(tmp_path, as_version_1(written), written, network)


def test_a_file_that_was_written_as_version_1(tmp_path: Path) -> None:
    content = VERSION_1.read_bytes()
    assert_same_network(tmp_path, content, file_bytes(), load(tmp_path, file_bytes()).network)


def test_version_1_states_no_runs(tmp_path: Path) -> None:
    header, data = unseal(packed_file_bytes(random_network(5), {}))
    header["__metadata__"]["format_version"] = "1"
    content = seal(header, data)
    assert "version 1 states no run" in refusal(tmp_path, content)
    assert both_readers(tmp_path, content) == (None, None)


def test_version_2_states_all_runs(tmp_path: Path) -> None:
    header, data = unseal(as_version_1(packed_file_bytes(random_network(5), {})))
    header["__metadata__"]["format_version"] = "2"
    content = seal(header, data)
    assert "expected an array, got None" in refusal(tmp_path, content)
    assert both_readers(tmp_path, content) == (None, None)


def test_values_in_the_reverse_order_of_layers(tmp_path: Path) -> None:
    """A writer may place runs where it likes."""
    header, data = unseal(packed_file_bytes(random_network(5), {}))
    begin, end = header["parameters"]["data_offsets"]
    numbers = np.frombuffer(data[begin:end], "<f4")
    described = json.loads(header["__metadata__"]["network"])
    runs = [layer["values"] for layer in described["layers"].values() if "values" in layer]
    runs += [
        node[part]
        for node in described["nodes"]
        for part in ("scale", "bias")
        if isinstance(node.get(part), list) and node["operation"] == "ScaleBias"
    ]
    assert len(runs) > 4
    moved, position = [], 0
    for run in runs[::-1]:
        moved.append(numbers[slice(*run)])
        run[:] = [position, position + len(moved[-1])]
        position = run[1]
    header["__metadata__"]["network"] = json.dumps(described)
    changed = np.concatenate(moved).tobytes()
    assert len(changed) == end - begin
    other = seal(header, data[:begin] + changed + data[end:])
    assert "CRC-32" in refusal(tmp_path, other)
    header["__metadata__"]["checksums"] = (
        f"{zlib.crc32(changed):08x}" + header["__metadata__"]["checksums"][8:]
    )
    network = random_network(5)
    written = packed_file_bytes(network, {})
    assert_same_network(
        tmp_path, seal(header, data[:begin] + changed + data[end:]), written, network
    )
