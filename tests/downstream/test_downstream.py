"""The stand-alone reader of packed files: a second opinion on FORMAT.md, files and networks."""

from __future__ import annotations

import ast
import json
import math
import os
import shutil
import subprocess
import sys
import tracemalloc
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from apot_export import downstream
from apot_export.artifacts.directory import PACKED_MODEL
from apot_export.artifacts.packed.writing import packed_file_bytes
from apot_export.downstream import _operations
from apot_export.downstream._layers import Tensors, _read_coordinates, _read_planes
from apot_export.network import Add, AveragePool, CodedNetwork, MaxPool, ScaleBias, oracle
from apot_export.network.codebook import apot, uniform
from conformance.files import Json
from tests.support.commands import EXPORT
from tests.support.format_vectors import file_bytes, floats, integers, vectors
from tests.support.malformed_networks import (
    both_readers,
    described,
    with_network,
)
from tests.support.networks import Builder, images_of, quantizer, small_network
from tests.support.packed_files import packed
from tests.support.published import Floats
from tests.support.random_coded_networks import (
    SIGNED_INPUTS,
    Recipe,
    multi_bit_network,
    network_of_recipe,
    plane_network,
    random_network,
)

FOLDER = Path(downstream.__file__).parent
Reader = downstream.DownstreamNetwork


def read(folder: Path, content: bytes) -> downstream.DownstreamNetwork:
    path = folder / "model.apot.safetensors"
    path.write_bytes(content)
    return downstream.load(path)


def opened(folder: Path, network: CodedNetwork) -> downstream.DownstreamNetwork:
    return read(folder, packed_file_bytes(network, {}))


# --- it stands alone ------------------------------------------------------------------------------


def test_it_imports_nothing_but_numpy() -> None:
    allowed = {*sys.stdlib_module_names, "numpy"}
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= allowed
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                assert str(node.module).split(".")[0] in allowed
            assert not isinstance(node, ast.ImportFrom) or node.level < 2


WITH_NUMPY_ALONE = """
import sys
for name in ("torch", "safetensors", "onnx", "onnxruntime"):
    sys.modules[name] = None  # importing it raises ImportError
import numpy
"""


def printed(folder: Path, program: str) -> str:
    """Run a program that cannot import what an export was made with, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", WITH_NUMPY_ALONE + program],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(FOLDER.parent.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_copy_of_the_folder_needs_numpy_alone(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "copied_reader")
    (tmp_path / "file").write_bytes(packed())
    found = printed(
        tmp_path,
        "sys.modules['apot_export'] = None\n"
        "import copied_reader\n"
        "network = copied_reader.load('file')\n"
        "images = numpy.ones((1, *network.input_shape), numpy.float32)\n"
        "print(network.run(images).tobytes().hex())\n",
    )
    images = np.ones((1, 3, 9, 8), np.float32)
    assert found == read(tmp_path, packed()).run(images).tobytes().hex()


@pytest.mark.parametrize("compress", [False, True])
def test_load_packed_needs_numpy_alone(tmp_path: Path, compress: bool) -> None:
    (tmp_path / "file").write_bytes(packed_file_bytes(small_network(), {}, compress=compress))
    found = printed(
        tmp_path,
        "import apot_export\n"
        "network = apot_export.load_packed('file')\n"
        "images = numpy.ones((1, 3, 9, 8), numpy.float32)\n"
        "print(network.run(images).tobytes().hex())\n",
    )
    images = np.ones((1, 3, 9, 8), np.float32)
    assert found == oracle.run(small_network(), images).tobytes().hex()


def test_the_example_prints_classes_and_shifts(exported: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "image.npy", np.zeros((1, 8, 8), np.float32))
    script = FOLDER.parent.parent / "examples" / "read_packed.py"
    packed_file = exported / EXPORT / PACKED_MODEL
    done = subprocess.run(
        [sys.executable, script, packed_file, tmp_path / "image.npy"],
        env={**os.environ, "PYTHONPATH": str(FOLDER.parent.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["class"] * 5
    shifts = [line for line in lines if " x = " in line]
    assert len(shifts) >= 4
    for line in shifts:
        level, _, terms = line.partition(" x = ")
        assert eval(terms.replace("x", "1")) == int(level), line  # noqa: S307 - shifts of 1


# --- FORMAT.md ------------------------------------------------------------------------------------


def test_the_complete_file_of_the_specification(tmp_path: Path) -> None:
    network = read(tmp_path, file_bytes())
    (layer,) = vectors("layer")
    found = network.layers[layer["layer"][0]]
    assert found.codes is not None
    assert found.codes.ravel().tolist() == integers(layer["codes"])
    assert found.factors.ravel().tolist() == integers(layer["levels"])
    assert network.weights("conv").tobytes() == floats(layer["values"]).tobytes()
    (run,) = vectors("run")
    image = floats(run.pop("input")).reshape(1, *network.input_shape)
    values = network.trace(image)
    assert list(values) == list(run)
    for name, expected in run.items():
        exact = values[name].dtype != np.float32
        numbers: Any = integers(expected) if exact else floats(expected)
        assert values[name].ravel().tolist() == list(numbers), name
    assert network.run(image).tobytes() == values["logits"].tobytes()


def test_the_sign_vectors_of_the_specification() -> None:
    (vector,) = vectors("planes")
    streams = bytes.fromhex(vector["counts"][0] + vector["planes"][0])
    tensors = Tensors(
        {
            "x.planes": np.frombuffer(streams, np.uint8),
            "parameters": floats(vector["coordinates"]),
        }
    )
    names = ("shape", "group_size", "position_major", "count_bits", "terms")
    record = {name: json.loads(vector[name][0]) for name in names}
    record["coordinates"] = [0, len(vector["coordinates"])]
    assert _read_planes(record, "x", tensors).tobytes() == floats(vector["values"]).tobytes()
    tensors.finish()


@given(st.lists(st.lists(st.integers(0, 255), min_size=4, max_size=4), min_size=1, max_size=5))
def test_coordinates_are_rounded_once(rows: list[list[int]]) -> None:
    terms = np.array(rows, np.uint8)
    found = _read_coordinates(
        len(rows), {"terms": 4, "coordinates": None}, "x", Tensors({"x.terms": terms})
    )
    for row, number in zip(rows, found, strict=True):
        signed = [(term & 127) - 64 if term else None for term in row]
        exact = sum(
            Fraction(2) ** power * (-1 if term > 127 else 1)
            for term, power in zip(row, signed, strict=True)
            if power is not None
        )
        error = abs(Fraction(float(number)) - exact)
        for neighbour in (np.nextafter(number, np.float32(side)) for side in (-np.inf, np.inf)):
            assert error <= abs(Fraction(float(neighbour)) - exact)


# --- the oracle -----------------------------------------------------------------------------------


def assert_same_values(folder: Path, network: CodedNetwork, images: Floats) -> None:
    """Hold every value against the oracle's: integers exactly, sums of floats nearly."""
    found = opened(folder, network)
    expected: dict[str, NDArray[Any]] = {}
    logits = oracle.run(network, images, lambda name, value: expected.update({name: value}))
    values = found.trace(images)
    for name, value in values.items():
        assert value.shape == expected[name].shape, name
        if value.dtype == np.float32:
            np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(value, expected[name], err_msg=name)
    assert found.run(images).tobytes() == values[network.output].tobytes()
    np.testing.assert_allclose(found.run(images), logits, rtol=1e-5, atol=1e-5)
    for name, layer in network.layers.items():
        assert found.weights(name).tobytes() == layer.weights().tobytes(), name


@pytest.mark.parametrize("seed", range(12))
def test_random_networks_of_all_operations(tmp_path: Path, seed: int) -> None:
    network = random_network(seed)
    assert_same_values(tmp_path, network, images_of(network, 3))


@pytest.mark.parametrize("seed", range(6))
def test_random_networks_of_signed_levels(tmp_path: Path, seed: int) -> None:
    network = random_network(seed, SIGNED_INPUTS)
    assert_same_values(tmp_path, network, images_of(network, 3))


@pytest.mark.parametrize("method", ["apot", "pot", "uniform"])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_random_networks_of_all_level_sets(tmp_path: Path, method: str, bits: int) -> None:
    recipe = Recipe(method=method, weight_bits=bits, activation_bits=bits, groups=2, seed=bits)
    network = network_of_recipe(recipe)
    assert_same_values(tmp_path, network, images_of(network, 3))


@pytest.mark.parametrize("terms", [0, 1, 3])
@pytest.mark.parametrize("position_major", [False, True])
def test_networks_of_sign_vectors(tmp_path: Path, terms: int, position_major: bool) -> None:
    network = multi_bit_network(4, terms, position_major=position_major)
    assert_same_values(tmp_path, network, images_of(network, 3))


def test_groups_of_sign_vectors_across_outputs(tmp_path: Path) -> None:
    network = plane_network(3)
    images = images_of(network, 3)
    found = opened(tmp_path, network)
    for name, layer in network.layers.items():
        assert found.weights(name).tobytes() == layer.weights().tobytes()
    np.testing.assert_allclose(found.run(images), oracle.run(network, images), rtol=1e-4)


@pytest.mark.parametrize("column_bytes", [1, 5000])
def test_integers_are_the_same_in_steps_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column_bytes: int
) -> None:
    monkeypatch.setattr(_operations, "_COLUMN_BYTES", column_bytes)
    network = random_network(2)
    assert_same_values(tmp_path, network, images_of(network, 7))


@pytest.mark.parametrize("kernel", [(3, 3), (9, 8), (12, 12)])
def test_windows_of_few_and_of_many_places(tmp_path: Path, kernel: tuple[int, int]) -> None:
    builder = Builder(image=(3, 12, 12))
    large = builder.add(MaxPool(kernel=kernel, stride=(1, 2), padding=(1, 0)), "image")
    mean = builder.add(AveragePool(kernel=(2, 1), stride=(1, 1)), large)
    assert_same_values(tmp_path, builder.finished(mean), images_of(builder.finished(mean), 3))
    mean = builder.add(AveragePool(kernel=kernel, stride=(1, 1)), "image")
    assert_same_values(tmp_path, builder.finished(mean), images_of(builder.finished(mean), 3))


def test_a_description_of_huge_values_needs_little_memory(tmp_path: Path) -> None:
    half = 1 << 30

    def pooled(size: int) -> Json:
        sizes = {"kernel": [size, size], "stride": [size, size], "padding": [size - 1, size - 1]}
        return {"operation": "MaxPool", **sizes}

    nodes: list[tuple[Json, bool]] = [
        (pooled(1 << 10), True),
        (pooled(1 << 12), False),
        ({"operation": "Upsample", "scale": [half, half]}, False),
        ({"operation": "Upsample", "scale": [half, 1]}, False),
        ({"operation": "AveragePool", "kernel": [half, 1], "stride": [1, 1]}, False),
    ]
    tracemalloc.start()
    try:
        for node, fine in nodes:
            content = described()
            content["nodes"].append({"name": "huge", "inputs": ["image"], **node})
            product, other = both_readers(tmp_path, with_network(content))
            assert (product is not None, other is not None) == (fine, fine), node
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()


def wide(inputs: int) -> CodedNetwork:
    """Return a network whose sums are about inputs times 2^16."""
    builder = Builder(image=(inputs, 1, 1))
    levels = quantizer(uniform(9, signed=False), 1.0)
    return builder.finished(
        builder.convolution("image", 3, (1, 1), uniform(8, signed=False), levels)
    )


def test_sums_that_float32_cannot_hold_are_exact(tmp_path: Path) -> None:
    network = wide(2000)
    images: Floats = np.full((1, 2000, 1, 1), 2, np.float32)
    assert_same_values(tmp_path, network, images)
    sums = opened(tmp_path, network).trace(images)["convolution1"]
    assert (sums.astype(np.float32) != sums).any()


def test_sums_that_int32_cannot_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leave int32"):
        opened(tmp_path, wide(80_000))


def test_images_must_be_those_of_the_network(tmp_path: Path) -> None:
    network = opened(tmp_path, small_network())
    images = np.zeros((2, 3, 9, 8), np.float32)
    assert network.run(images).shape == (2, 4)
    others: list[Any] = [images.astype(np.float64), images[0], images[:, :2], images[..., :7]]
    for wrong in others:
        with pytest.raises(ValueError, match="must be float32"):
            network.run(wrong)
    images[1, 1, 1, 1] = math.inf
    with pytest.raises(ValueError, match="infinity"):
        network.run(images)


def test_a_nan_in_front_of_a_quantizer_is_an_error(tmp_path: Path) -> None:
    builder = Builder(image=(2, 3, 3))
    huge = ScaleBias(scale=np.full(2, 3e38, np.float32), bias=np.zeros(2, np.float32))
    value = builder.add(huge, builder.add(huge, "image"))
    falling = ScaleBias(scale=np.full(2, -1, np.float32), bias=np.zeros(2, np.float32))
    value = builder.add(Add(), value, builder.add(falling, value))
    levels = quantizer(apot(4, signed=False), 1.5)
    value = builder.convolution(value, 2, (1, 1), apot(3, signed=True), levels)
    network = opened(tmp_path, builder.finished(value))
    with pytest.raises(ValueError, match="NaN"):
        network.run(np.ones((1, 2, 3, 3), np.float32))
