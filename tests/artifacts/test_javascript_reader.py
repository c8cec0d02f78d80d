"""The example's reader in JavaScript, written from FORMAT.md: it finds what `load_packed` finds."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apot_export.artifacts.packed import load_packed
from apot_export.artifacts.packed.writing import packed_file_bytes
from apot_export.network import CodedLayer, CodedNetwork, PlaneLayer, operations
from apot_export.network.bitpack import pack
from apot_export.network.codebook import apot, power_of_two, uniform
from tests.support.networks import Builder, quantizer, small_network
from tests.support.packed_files import (
    ORDERS,
    as_codes,
    as_version_1,
    example,
    reordered,
    resealed,
    skewed,
    unseal,
    with_storage,
)
from tests.support.published import Shelf
from tests.support.random_coded_networks import multi_bit_network, plane_network

READER = Path(__file__).parents[2] / "examples" / "javascript" / "read_packed.mjs"
PROGRAM = """
import { readFileSync } from "node:fs";
import { readPacked } from READER;
const bytes = (array) => array && Buffer.from(array.buffer).toString("base64");
for (const file of process.argv.slice(1)) {
  try {
    const { network, layers } = readPacked(readFileSync(file));
    const found = {};
    for (const [name, { kind, shape, levels, weights }] of layers) {
      found[name] = { kind, shape, levels: bytes(levels), weights: bytes(weights) };
    }
    console.log(JSON.stringify({ output: network.output, found }));
  } catch (error) {
    console.log(JSON.stringify({ error: error.message }));
  }
}
"""


@pytest.fixture(scope="module")
def node() -> str:
    found = shutil.which("node")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("CI must have node")
        pytest.skip("there is no node")
    return found


def results(node: str, files: list[Path]) -> list[Any]:
    """Return what the reader prints of every file."""
    program = PROGRAM.replace("READER", json.dumps(READER.as_uri()))
    done = subprocess.run(
        [node, "--input-type=module", "-e", program, *files],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def errors(node: str, folder: Path, *contents: bytes) -> list[object]:
    files = [folder / str(index) for index in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    return [result.get("error") for result in results(node, files)]


def assert_same(node: str, *files: Path) -> None:
    """Hold the names, kinds, shapes, levels and weights of files against `load_packed`'s."""
    for file, result in zip(files, results(node, list(files)), strict=True):
        assert "error" not in result, (file, result)
        packed = load_packed(file)
        assert result["output"] == packed.network.output
        assert result["found"].keys() == packed.layers.keys()
        for name, layer in packed.layers.items():
            found = result["found"][name]
            assert found["shape"] == list(layer.shape), name
            assert base64.b64decode(found["weights"]) == layer.weights().tobytes(), name
            if isinstance(layer, CodedLayer):
                assert base64.b64decode(found["levels"]) == layer.levels().tobytes(), name
                assert found["kind"] == "coded"
            else:
                assert found["levels"] is None
                assert found["kind"] == ("planes" if isinstance(layer, PlaneLayer) else "float")


def of_all_level_sets() -> CodedNetwork:
    """Return a network with a layer of every kind and width of codebooks."""
    builder = Builder(image=(4, 4, 4))
    books = [
        *(apot(bits, signed=True) for bits in range(2, 7)),
        *(uniform(bits, signed=signed) for bits in (1, 3, 8) for signed in (False, True)),
        power_of_two(3, signed=True),
        replace(apot(4, signed=True), tables=(*apot(4, signed=True).tables, (0, -64))),
        replace(uniform(1, signed=False), tables=((-1, 1),)),  # a grid without zero
    ]
    value = "image"
    for book in books:
        levels = quantizer(apot(2, signed=False), 1.5)
        value = builder.convolution(value, 4, (3, 3), book, levels, padding=(1, 1))
    return builder.finished(value)


def gated() -> CodedNetwork:
    """Return a network with an operation that version 3 added."""
    builder = Builder(image=(4, 4, 4))
    levels = quantizer(apot(2, signed=False), 1.5)
    value = builder.convolution("image", 4, (3, 3), apot(2, signed=True), levels, padding=(1, 1))
    return builder.finished(builder.add(operations.Multiply(), value, value))


def compressible() -> CodedNetwork:
    """Return a network whose layers of 6 and 9 bits are smaller when entropy-coded."""
    network = example()
    layers = dict(network.layers)
    for name, bits in {"a": 6, "b": 9}.items():
        layer = layers[name]
        assert isinstance(layer, CodedLayer)
        codes = skewed(bits, int(np.prod(layer.shape)), bits) // 4
        book = uniform(bits - 1, signed=True)
        layers[name] = replace(
            layer,
            stored=pack(as_codes(codes, bits), bits),
            codebook=book,
            values=(book.levels * 0.25).astype(np.float32),
        )
    return replace(network, layers=layers)


def test_every_feature_of_the_format(node: str, tmp_path: Path) -> None:
    contents = {
        "small": packed_file_bytes(small_network(), {}),
        "version 3": packed_file_bytes(gated(), {}),
        "level sets": packed_file_bytes(of_all_level_sets(), {}),
        "digits": packed_file_bytes(example(), {}),
        "entropy": packed_file_bytes(example(), {}, compress=True),
        "wide entropy": packed_file_bytes(compressible(), {}, compress=True),
        "groups across outputs": packed_file_bytes(plane_network(3), {}),
        **{
            f"{terms} terms, {position_major=}": packed_file_bytes(
                multi_bit_network(4, terms, position_major=position_major), {}
            )
            for terms in (0, 1, 3)
            for position_major in (False, True)
        },
        **{
            order: reordered(packed_file_bytes(small_network(), {}), ORDERS[order])
            for order in ORDERS
        },
    }
    assert unseal(contents["version 3"])[0]["__metadata__"]["format_version"] == "3"
    stored = json.loads(unseal(contents["wide entropy"])[0]["__metadata__"]["network"])["layers"]
    assert all("entropy" in stored[name]["storage"] for name in ("a", "b"))
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    assert_same(node, *(tmp_path / name for name in contents))


def test_coordinates_are_rounded_once(node: str, tmp_path: Path) -> None:
    content = packed_file_bytes(multi_bit_network(4, 4, position_major=False), {})
    name = next(name for name in unseal(content)[0] if name.endswith(".terms"))
    rng = np.random.default_rng(0)
    files = []
    for index in range(8):
        change = {place: int(rng.integers(0, 256)) for place in range(400)}
        files.append(tmp_path / str(index))
        files[-1].write_bytes(resealed(content, name, change))
    assert_same(node, *files)


def test_what_is_damaged_or_unknown_is_an_error(node: str, tmp_path: Path) -> None:
    content = packed_file_bytes(small_network(), {})
    damaged, torn = bytearray(content), bytearray(content)
    damaged[-1] ^= 1
    torn[200] ^= 1
    found = errors(
        node,
        tmp_path,
        as_version_1(content),
        bytes(damaged),
        bytes(torn),
        content[:-1],
        content[:300],
        b"no file at all" * 9,
        with_storage({"huffman": [8, 7]}, "a"),
        with_storage({"entropy": [9, 7]}, "a"),
    )
    expected = [
        "apot-packed 2 or apot-packed 3 is read, not apot-packed 1",
        "is damaged",
        "the header is damaged",
        "is damaged",
        "the header is damaged",
        "this is no packed file",
        "the storage huffman is unknown",
        "the frequencies have another sum",
    ]
    for message, part in zip(found, expected, strict=True):
        assert part in str(message)


def test_the_command_shows_every_layer(node: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(packed_file_bytes(small_network(), {}))
    done = subprocess.run(
        [node, READER, tmp_path / "file"], capture_output=True, text=True, check=True
    )
    shown = [line.partition(":")[0] for line in done.stdout.splitlines()]
    assert shown == list(small_network().layers)


@pytest.mark.parametrize(
    "name", ["mnist_resnet10_4bit_uniform", "cifar100_res32_2bit_ngrid_z2", "alq_lenet5"]
)
def test_published_networks(node: str, reference: Path, tmp_path: Path, name: str) -> None:
    export = Shelf(reference=reference, folder=tmp_path).export(name)
    assert_same(node, export / "model.apot.safetensors")
