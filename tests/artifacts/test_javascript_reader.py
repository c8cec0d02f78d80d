"""The example's reader in JavaScript, written from FORMAT.md: it finds what `load_packed` finds.

The conformance kit has files of every feature and of every rule (tests/conformance).
"""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import numpy as np
import pytest

from apot_export.artifacts.packed import load_packed
from apot_export.artifacts.packed.writing import packed_file_bytes
from apot_export.network import CodedLayer, PlaneLayer
from conformance.files import unseal
from tests.support.javascript import READER, node, results
from tests.support.networks import small_network
from tests.support.packed_files import ORDERS, example, reordered, resealed
from tests.support.published import Shelf
from tests.support.random_coded_networks import multi_bit_network, plane_network


def assert_same(*files: Path) -> None:
    """Hold the names, kinds, shapes, levels and weights of files against `load_packed`'s."""
    for file, result in zip(files, results(list(files)), strict=True):
        assert "error" not in result, (file, result)
        packed = load_packed(file)
        assert result["output"] == packed.network.output
        layers = dict(result["found"])
        assert layers.keys() == packed.layers.keys()
        for name, layer in packed.layers.items():
            found = layers[name]
            assert found["shape"] == list(layer.shape), name
            assert base64.b64decode(found["weights"]) == layer.weights().tobytes(), name
            if isinstance(layer, CodedLayer):
                assert base64.b64decode(found["levels"]) == layer.levels().tobytes(), name
                assert found["kind"] == "coded"
            else:
                assert found["levels"] is None
                assert found["kind"] == ("planes" if isinstance(layer, PlaneLayer) else "float")


def test_files_that_the_writer_makes(tmp_path: Path) -> None:
    contents = {
        "small": packed_file_bytes(small_network(), {}),
        "digits": packed_file_bytes(example(), {}),
        "entropy": packed_file_bytes(example(), {}, compress=True),
        "groups across outputs": packed_file_bytes(plane_network(3), {}),
        **{
            order: reordered(packed_file_bytes(small_network(), {}), ORDERS[order])
            for order in ORDERS
        },
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    assert_same(*(tmp_path / name for name in contents))


def test_coordinates_are_rounded_once(tmp_path: Path) -> None:
    content = packed_file_bytes(multi_bit_network(4, 4, position_major=False), {})
    name = next(name for name in unseal(content)[0] if name.endswith(".terms"))
    rng = np.random.default_rng(0)
    files = []
    for index in range(8):
        change = {place: int(rng.integers(0, 256)) for place in range(400)}
        files.append(tmp_path / str(index))
        files[-1].write_bytes(resealed(content, name, change))
    assert_same(*files)


def test_the_command_shows_every_layer(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(packed_file_bytes(small_network(), {}))
    done = subprocess.run(
        [node(), READER, tmp_path / "file"], capture_output=True, text=True, check=True
    )
    shown = [line.partition(":")[0] for line in done.stdout.splitlines()]
    assert shown == list(small_network().layers)


@pytest.mark.parametrize(
    "name", ["mnist_resnet10_4bit_uniform", "cifar100_res32_2bit_ngrid_z2", "alq_lenet5"]
)
def test_published_networks(shelf: Shelf, name: str) -> None:
    assert_same(shelf.export(name) / "model.apot.safetensors")
