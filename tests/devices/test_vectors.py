"""Golden vectors of a layer: the oracle's integers, in every format the same."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from apot_export.devices.vectors import bits_of, chosen_images, hexadecimal, layer_vectors
from apot_export.errors import ExportError
from apot_export.integer import Pixels, lower, run_integer
from apot_export.integer.network import Integers
from apot_export.network import operations as op
from apot_export.network.codebook import apot
from apot_export.network.oracle import convolve
from apot_export.runtimes.compiler import find_compiler
from tests.support.commands import EXPORT, run
from tests.support.random_coded_networks import two_layers


def test_sums_are_those_of_what_the_layer_reads() -> None:
    coded = two_layers(apot(3, signed=True), apot(4, signed=False), 5)
    pixels = Pixels(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    network = lower(coded, fraction_bits=8, pixels=pixels)
    images = chosen_images(network, 3)
    seen: dict[str, Integers] = {}
    run_integer(network, images, seen.__setitem__)
    vectors = layer_vectors(network, "layer1", images)
    node = next(n for n in network.nodes if getattr(n.operation, "layer", "") == "layer1")
    assert isinstance(node.operation, op.Convolution)
    levels = coded.layers["layer1"].levels()  # type: ignore[union-attr]
    sums = convolve(node.operation, vectors.inputs, levels, lambda rows, some: rows @ some.T)
    np.testing.assert_array_equal(vectors.sums, sums)
    for name, values in vectors.outputs.items():
        np.testing.assert_array_equal(values, seen[name])
    with pytest.raises(ExportError, match="no such layer"):
        layer_vectors(network, "layer7", images)


def test_words_of_hexadecimal_digits() -> None:
    numbers = np.array([[-4, 3, 1], [0, -1, 2]])
    assert hexadecimal(numbers, 3) == ["05c", "0b8"]
    assert hexadecimal(np.array([[-(2**62)]]), 63) == ["4" + "0" * 15]
    assert hexadecimal(np.zeros((0, 2), np.int64), 3) == []
    assert [bits_of(0, 0), bits_of(0, 255), bits_of(-128, 3), bits_of(-1, 200)] == [1, 8, 8, 9]


@pytest.mark.usefixtures("folder")
def test_all_formats_hold_the_same() -> None:
    options = ("--layer", "layer2.0.conv1", "--images", 2, "-o", "vectors")
    assert run("emit", "vectors", EXPORT, *options).exit_code == 0
    with np.load("vectors/vectors.npz") as opened:
        arrays = {**opened}
    header = Path("vectors/vectors.h").read_text()
    assert {"inputs", "sums"} < set(arrays)
    for name in set(arrays) - {"images"}:
        values = arrays[name]
        lines = Path(f"vectors/{name}.hex").read_text().split()
        bits = bits_of(int(values.min()), int(values.max()))
        assert hexadecimal(values.reshape(-1, 1), bits) == lines
        declared = re.escape(name.replace(".", "_"))
        found = re.search(rf" {declared}\[{values.size}\] = {{(.*?)}};", header, re.DOTALL)
        assert found
        assert [*map(int, re.findall(r"-?\d+", found[1]))] == values.reshape(-1).tolist()
    Path("use.c").write_text(
        '#include "vectors/vectors.h"\nint main(void) { return (int)sums[0] & 0; }\n'
    )
    strict = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wno-unused-variable")
    subprocess.run([find_compiler(), *strict, "use.c", "-o", "use"], check=True)


@pytest.mark.usefixtures("folder")
def test_images_are_the_samples_of_the_export() -> None:
    options = ("--layer", "fc", "--images", 9, "-o", "vectors")
    assert run("emit", "vectors", EXPORT, *options).exit_code == 0
    with np.load(EXPORT / "sample.npz") as sample, np.load("vectors/vectors.npz") as vectors:
        np.testing.assert_array_equal(vectors["images"][:8], sample["inputs"])
        assert len(vectors["images"]) == 9


@pytest.mark.usefixtures("folder")
def test_images_of_a_file() -> None:
    images = np.random.default_rng(3).normal(size=(4, 1, 8, 8)).astype(np.float32)
    np.save("images.npy", images)
    options = ("--layer", "fc", "--images", 3, "--data", "images.npy", "-o", "vectors")
    assert run("emit", "vectors", EXPORT, *options).exit_code == 0
    with np.load("vectors/vectors.npz") as found:
        np.testing.assert_array_equal(found["images"], images[:3])
    Path("images.npy").write_bytes(b"no array")
    said = run("emit", "vectors", EXPORT, *options, "--force")
    assert (said.exit_code, Path("vectors/vectors.npz").exists()) == (2, True)
    assert "cannot be read" in said.output
