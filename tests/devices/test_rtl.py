"""SystemVerilog of layers, simulated: every partial sum, sum and result against the oracle's."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apot_export import load_packed
from apot_export.devices.export import OpenExport
from apot_export.devices.rtl.emit import project
from apot_export.devices.vectors import chosen_images
from apot_export.errors import ExportError
from apot_export.integer import lower
from apot_export.network import CodedLayer, CodedNetwork, Flatten, Linear, ScaleBias
from apot_export.network.codebook import Codebook, apot, power_of_two, uniform, with_levels_below
from tests.support import simulators
from tests.support.commands import EXPORT, run
from tests.support.networks import Builder, coded, quantizer
from tests.support.published import Shelf
from tests.support.random_coded_networks import WEIGHTS, multi_bit_network, two_layers

EVERY = 1 << 20
"""More words than a layer has: all partial sums."""


def opened(network: CodedNetwork) -> OpenExport:
    lowered = lower(network, fraction_bits=8)
    return OpenExport(path=Path("export"), name="n", manifest={}, coded=network, network=lowered)


def emit(network: CodedNetwork, folder: Path, *layers: str, lanes: int = 4, images: int = 1) -> str:
    """Write a project of layers, all by default, and return what Icarus Verilog says of it."""
    simulators.require("iverilog")
    source = opened(network)
    read = chosen_images(source.network, images)
    files, _ = project(source, read, layers=layers, lanes=lanes, partial=EVERY)
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return simulators.make(folder, "iverilog")


@pytest.mark.parametrize("book", WEIGHTS, ids=lambda book: f"{book.tables}{book.signed}")
def test_every_codebook_of_weights(book: Codebook, tmp_path: Path) -> None:
    said = emit(two_layers(book, apot(3, signed=False), 1), tmp_path)
    assert said.count("PASS") == 3  # fixed-point inputs, levels, and a matrix product


@pytest.mark.parametrize(
    "book",
    [
        uniform(1, signed=True),
        apot(4, signed=True),
        with_levels_below(uniform(2, signed=False), -90),
        power_of_two(3, signed=False),
    ],
    ids=lambda book: f"{book.tables}{book.signed}",
)
def test_every_kind_of_levels_as_inputs(book: Codebook, tmp_path: Path) -> None:
    assert emit(two_layers(apot(2, signed=True), book, 2), tmp_path).count("PASS") == 3


@pytest.mark.parametrize(
    ("groups", "kernel", "geometry"),
    [
        (1, (3, 3), {"stride": (2, 1), "padding": (1, 2)}),
        (2, (2, 3), {"stride": (1, 2), "padding": (0, 1), "dilation": (2, 1)}),
        (6, (3, 1), {"padding": (3, 0), "dilation": (1, 2)}),
        (3, (1, 1), {"stride": (3, 2)}),
        (1, (5, 5), {"padding": (4, 4), "stride": (4, 4)}),
    ],
)
@pytest.mark.parametrize("lanes", [1, 4])
def test_every_geometry(
    groups: int,
    kernel: tuple[int, int],
    geometry: dict[str, Any],
    lanes: int,
    tmp_path: Path,
) -> None:
    builder = Builder(image=(3, 7, 6), seed=groups)
    book = apot(3, signed=True)
    first = builder.convolution("image", 6, (1, 1), book)
    inputs = quantizer(apot(2, signed=False), 0.8)
    last = builder.convolution(first, 12, kernel, book, inputs, groups=groups, **geometry)
    assert emit(builder.head(last, 4, book), tmp_path, lanes=lanes, images=2).count("PASS") == 3


def test_logits_without_a_bias(tmp_path: Path) -> None:
    builder = Builder(image=(3, 4, 4), seed=1)
    book = apot(2, signed=True)
    flat = builder.add(Flatten(), builder.convolution("image", 4, (3, 3), book))
    builder.layers["last"] = coded("last", (4, 16), book, None, 5)
    sums = builder.add(Linear(layer="last"), flat)
    logits = builder.add(ScaleBias(scale=np.array([0.5]), bias=np.array([0.0])), sums)
    assert emit(builder.finished(logits), tmp_path).count("PASS") == 2


@pytest.mark.parametrize("name", ["partial_sums", "sums", "results"])
def test_a_number_that_differs_fails(name: str, tmp_path: Path) -> None:
    network = two_layers(apot(2, signed=True), apot(3, signed=False), 3)
    emit(network, tmp_path)
    (path,) = tmp_path.glob(f"{sorted(network.layers)[1]}.{name}.mem")
    lines = path.read_text().splitlines()
    lines[7] = f"{int(lines[7], 16) ^ 1:0{len(lines[7])}x}"
    path.write_text("\n".join(lines) + "\n")
    done = simulators.call(tmp_path, "make", "-B", "iverilog")
    assert done.returncode != 0
    assert re.search(r"FAIL \S+: image 0, (partial )?(sums|results) of (step|word) 7:", done.stdout)


@pytest.mark.usefixtures("folder")
def test_the_command_writes_a_project_without_a_multiplier() -> None:
    simulators.require("iverilog", "verilator", "yosys")
    layer = "layer2.0.downsample.0"
    command = ("emit", "rtl", EXPORT, "-o", "rtl", "--layer", layer, "--partial", EVERY)
    said = run(*command)
    assert said.exit_code == 0, said.output
    simulators.make(Path("rtl"), "lint", "iverilog")
    summary = json.loads(Path("rtl/emitted.json").read_text())
    assert list(summary["layers"]) == [layer]
    assert summary["files"].keys() | {"emitted.json", "build"} == {
        path.name for path in Path("rtl").iterdir()
    }
    assert run(*command).exit_code == 2
    assert run(*command, "--force").exit_code == 0
    Path("rtl/mine.txt").touch()
    assert "mine.txt" in run(*command, "--force").output
    read = "read_verilog -defer -sv apot_*.sv *_layer.sv; hierarchy -auto-top; proc; flatten"
    forbidden = " ".join(f"t:${kind}" for kind in ("mul", "div", "mod", "pow", "macc"))
    done = simulators.call(
        Path("rtl"), "yosys", "-q", "-p", f"{read}; opt; select -assert-none {forbidden}"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("folder")
def test_memory_images_hold_the_codes() -> None:
    assert run("emit", "rtl", EXPORT, "-o", "rtl", "--layer", "fc", "--lanes", "5").exit_code == 0
    words = Path("rtl/fc.codes.mem").read_text().split()
    single = [int(word, 16) for word in Path("rtl/fc.codes.one.mem").read_text().split()]
    stream = bytes(int(word, 16) for word in Path("rtl/fc.codes.stream.mem").read_text().split())
    layer = load_packed(EXPORT).layers["fc"]
    assert isinstance(layer, CodedLayer)
    bits, codes = layer.codebook.bits, layer.codes
    assert single == codes.reshape(-1).tolist()
    assert stream == layer.packed.tobytes()
    unpacked = [
        [int(word, 16) >> bits * lane & (1 << bits) - 1 for lane in range(5)] for word in words
    ]
    expected = codes.reshape(2, 5, -1).transpose(0, 2, 1).reshape(-1, 5)
    np.testing.assert_array_equal(unpacked, expected)
    assert (
        re.findall(r"^[0-9a-f]+(?=[,;])", Path("rtl/fc.codes.coe").read_text(), re.MULTILINE)
        == words
    )
    assert re.findall(r" : ([0-9a-f]+);", Path("rtl/fc.codes.mif").read_text()) == words


@pytest.mark.parametrize(("bits", "programs"), [(2, ("iverilog",)), (4, ("iverilog", "verilator"))])
def test_layers_of_a_published_network(
    bits: int, programs: tuple[str, ...], shelf: Shelf, tmp_path: Path
) -> None:
    """One 3x3 and one 1x1 layer, every partial sum; 4 bits in both simulators, 2 in one."""
    simulators.require("iverilog", "verilator")
    export = shelf.export(f"cifar10_res20_{bits}bit")
    layers = ("--layer", "layer2.0.conv1", "--layer", "layer2.0.downsample.0")
    options = ("-o", tmp_path / "rtl", "--partial", EVERY, "--lanes", 32)
    assert run("emit", "rtl", export, *layers, *options).exit_code == 0
    said = simulators.make(tmp_path / "rtl", "lint", *programs)
    assert len(re.findall(r"PASS.* (\d+) of \1 steps' partial sums", said)) == 2 * len(programs)


@pytest.mark.usefixtures("folder")
def test_wrong_requests_leave_nothing() -> None:
    said = run("emit", "rtl", EXPORT, "-o", "rtl", "--layer", "layer9")
    assert (said.exit_code, Path("rtl").exists()) == (2, False)
    assert "no such layer" in said.output
    np.save("wrong.npy", np.zeros((1, 3, 8, 8), np.float32))
    said = run("emit", "rtl", EXPORT, "-o", "rtl", "--layer", "fc", "--data", "wrong.npy")
    assert "does not hold the images" in said.output
    assert not Path("rtl").exists()


def test_sign_vectors_are_no_codes() -> None:
    source = opened(multi_bit_network(1, 2, position_major=False))
    images = chosen_images(source.network, 1)
    with pytest.raises(ExportError, match="no layer of codes"):
        project(source, images, layers=(), lanes=1, partial=0)
    with pytest.raises(ExportError, match="computes with codes"):
        project(source, images, layers=[*source.coded.layers][:1], lanes=1, partial=0)
