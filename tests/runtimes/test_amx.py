"""The kernels of AMX: in emulated registers everywhere, in a processor's own where it has them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from apot_export.network import CodedNetwork, Concat, MaxPool, Relu
from apot_export.network.codebook import apot, uniform
from apot_export.runtimes.native import SOURCES, compile_network
from apot_export.runtimes.native._library import Library, build_flags, compile_kernels
from tests.support.emulated_tiles import counts, emulating_library, processor_flags
from tests.support.native_checks import byte_levels, differences, signed_byte_levels
from tests.support.networks import Builder, images_of, quantizer
from tests.support.random_coded_networks import random_network

pytestmark = pytest.mark.skipif(
    not (shutil.which("cc") or shutil.which("gcc")), reason="no C compiler"
)
Pair = tuple[int, int]


@pytest.fixture(scope="module")
def emulating(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return emulating_library(tmp_path_factory.mktemp("emulating"), "-O3", "-Werror")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Library:
    if not processor_flags() >= {"amx_tile", "amx_int8", "amx_bf16"}:
        pytest.skip("this processor has no AMX (amx_int8 in /proc/cpuinfo)")
    library = Library(compile_kernels(tmp_path_factory.mktemp("real"), ("-O3", "-Werror")))
    assert library.kernels[0] == "amx"
    return library


def convolution(
    channels: int, outputs: int, size: Pair, kernel: int, stride: int, *, bits: int = 4
) -> CodedNetwork:
    builder = Builder(image=(channels, *size), seed=channels + outputs)
    inputs = quantizer(apot(bits, signed=False), 1.0)
    pad, step = (kernel // 2, kernel // 2), (stride, stride)
    value = builder.convolution(
        "image", outputs, (kernel, kernel), apot(4, signed=True), inputs, padding=pad, stride=step
    )
    return builder.finished(builder.add(Relu(), value))


# Channels, outputs, size, kernel, stride, and the products of registers that they take: runs of 16
# pixels at most, by groups of 16 outputs, by chunks of 64 products.
SHAPES = [
    (64, 64, (56, 56), 3, 1, 203 * 4 * 9),  # 56 rows of 58 pixels follow each other
    (64, 32, (7, 7), 3, 1, 4 * 2 * 9),
    (64, 128, (28, 28), 3, 2, 14 * 8 * 9),  # rows of 14
    (64, 48, (14, 14), 1, 2, 6 * 3 * 1),  # 7 rows of 7 follow each other by 14
    (128, 80, (9, 31), 3, 1, 9 * 2 * 5 * 18),  # rows of 31 in 16 and 16, one pixel twice
    (16, 16, (32, 32), 3, 1, 64 * 1 * 3),  # chunks of 48 products
    (32, 32, (16, 16), 3, 1, 16 * 2 * 6),
    (192, 16, (1, 2), 3, 1, 0),  # two pixels of one row: vectors do as much
]


@pytest.mark.parametrize(("channels", "outputs", "size", "kernel", "stride", "products"), SHAPES)
@pytest.mark.parametrize("threads", [1, 3])
def test_emulated_registers_take_the_sums(
    emulating: Library, channels: int, outputs: int, size: Pair, kernel: int, stride: int,
    products: int, threads: int,
) -> None:  # fmt: skip
    network = convolution(channels, outputs, size, kernel, stride)
    fast = compile_network(network, kernels="amx", library=emulating, threads=threads)
    counts(emulating)
    images = images_of(network, 2)
    fast.run(images[:1])
    found = counts(emulating)
    assert found["products"] == products
    # A pair of runs and of groups: four registers are loaded for four products.
    assert products <= found["loads"] <= 2 * products
    assert differences(network, fast, images)["integer sums"] > 0


# Channels, outputs, kernel, stride, padding, size; products, of three parts a float.
FLOATS = [
    (3, 64, 7, 2, 3, (33, 40), 17 * 2 * 14 * 4),  # 63 numbers of a kernel's row, in two chunks
    (3, 16, 3, 1, 1, (9, 32), 9 * 2 * 3 * 1),  # 27 numbers: one chunk
    (1, 24, 5, 1, 0, (7, 11), 3 * 1 * 5 * 2),
    (20, 32, 3, 3, 0, (10, 100), 3 * 3 * 18 * 2),
    (3, 16, 1, 1, 0, (5, 40), 0),  # so few taps that their sums could be rounded more often
    (3, 16, 3, 1, 1, (9, 3), 0),
]


@pytest.mark.parametrize(
    ("channels", "outputs", "kernel", "stride", "padding", "size", "products"), FLOATS
)
@pytest.mark.parametrize("others", [False, True])
def test_emulated_registers_take_sums_of_floats(
    emulating: Library, channels: int, outputs: int, kernel: int, stride: int, padding: int,
    size: Pair, products: int, others: bool,
) -> None:  # fmt: skip
    network = floats(channels, outputs, kernel, stride, padding, size, others=others)
    fast = compile_network(network, kernels="amx", library=emulating, threads=2)
    counts(emulating)
    images = images_of(network, 3)
    images[0] *= np.exp2(np.random.default_rng(1).uniform(-50, 10, images[0].shape))
    fast.run(images[:1])
    assert counts(emulating)["products"] == products
    assert differences(network, fast, images)["float sums"] > 0


def floats(
    channels: int, outputs: int, kernel: int, stride: int, padding: int, size: Pair,
    *, others: bool,
) -> CodedNetwork:  # fmt: skip
    """Return a network of one float layer, whose image `others` also reads: pixel by pixel."""
    builder = Builder(image=(channels, *size), seed=kernel)
    value = builder.convolution(
        "image", outputs, (kernel, kernel), uniform(7, signed=True),
        stride=(stride, stride), padding=(padding, padding),
    )  # fmt: skip
    value = builder.add(Relu(), value)
    if others:
        pool = builder.add(MaxPool(kernel=(1, 1), stride=(stride, stride), padding=(0, 0)), "image")
        if builder.shape(pool)[1:] == builder.shape(value)[1:]:
            value = builder.add(Concat(), value, pool)
    return builder.finished(value)


@pytest.mark.parametrize("number", [np.inf, -np.inf, np.nan, 3e38, 1e-30, -1e-42])
def test_rows_of_extreme_floats_are_left_to_vectors(emulating: Library, number: float) -> None:
    network = floats(3, 16, 3, 1, 1, (12, 20), others=False)
    fast = compile_network(network, kernels="amx", library=emulating)
    plain = compile_network(network, kernels=emulating.kernels[1], library=emulating)
    image = images_of(network, 3)[:1]
    counts(emulating)
    expected = fast.run(image)
    assert counts(emulating)["products"] == 12 * 2 * 3
    image[0, 1, 5, 7] = number
    with np.errstate(all="ignore"):
        found = fast.run(image).reshape(16, 12, 20)
        wanted = plain.run(image).reshape(16, 12, 20)
    assert counts(emulating)["products"] == (12 - 3) * 2 * 3
    np.testing.assert_array_equal(found[:, 4:7], wanted[:, 4:7])
    rest = [*range(4), *range(7, 12)]
    np.testing.assert_array_equal(found[:, rest], expected.reshape(16, 12, 20)[:, rest])


def test_both_compilers_write_the_instructions(tmp_path: Path) -> None:
    disassembler = shutil.which("objdump")
    if not disassembler:
        pytest.skip("no objdump")
    flags = [*build_flags()[""], *build_flags()["amx"], "-O3", "-Werror"]
    for compiler in filter(shutil.which, ("gcc", "clang")):
        target = str(tmp_path / f"{compiler}.o")
        command = [compiler, *flags, "-c", str(SOURCES / "amx.c"), "-o", target]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if "unrecognized" in done.stderr or "unknown argument" in done.stderr:
            continue  # a compiler of before AMX, or of another processor
        assert not done.returncode, done.stderr
        text = subprocess.run(
            [disassembler, "-d", target], capture_output=True, text=True, check=True
        ).stdout
        for name, times in {
            "tdpbusd": 9, "tdpbf16ps": 9, "ldtilecfg": 1, "tilerelease": 1, "tilestored": 18
        }.items():  # fmt: skip
            assert text.count(f"\t{name} ") + text.count(f"\t{name}\n") >= times, name


FAULTS = {
    "palette": "shapes.palette = 2;",
    "reserved": "shapes.reserved[3] = 1;",
    "rows": "shapes.rows[2] = 17;",
    "bytes": "shapes.bytes[2] = 65;",
    "a ninth register": "shapes.rows[8] = shapes.bytes[8] = 1;",
    "no bytes": "shapes.bytes[0] = 0;",
    "inner extents": "shapes.rows[2] = 9;",
    "outer extents": "shapes.rows[1] = 9;",
}
PROGRAM = r"""
#include "tile_registers.h"
#include <stdio.h>

int main(void)
{
    static uint8_t a[16 * 64], b[16 * 64];
    static int32_t sums[256];
    register_shapes shapes = {.palette = 1};
    for (int i = 0; i < 3; i++) {
        shapes.rows[i] = 16;
        shapes.bytes[i] = 64;
    }
    for (int i = 0; i < 1024; i++) {
        a[i] = (uint8_t)(i * 7);
        b[i] = (uint8_t)(i * 13);
    }
    FAULT
    MEMORY_IS_WRITTEN(&shapes);
    tile_configure(&shapes);
    tile_zero(0);
    tile_load(1, a, 64);
    tile_load(2, b, 64);
    for (int i = 0; i < 2; i++)
        tile_multiply_bytes(0, 1, 2);
    tile_store(0, sums, 64);
    tile_release();
    int64_t expected = 0, found = 0;
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 16; n++) {
            int32_t sum = 0;
            for (int k = 0; k < 64; k++)
                sum += a[m * 64 + k] * (int8_t)b[k / 4 * 64 + 4 * n + k % 4];
            expected += (m + 1) * (n + 3) * 2 * (int64_t)sum;
            found += (m + 1) * (n + 3) * (int64_t)sums[16 * m + n];
        }
    puts(expected == found ? "equal" : "different");
    return 0;
}
"""


def ran(folder: Path, fault: str, *flags: str) -> subprocess.CompletedProcess[str]:
    source, program = folder / "program.c", folder / "program"
    source.write_text(PROGRAM.replace("FAULT", fault), encoding="utf-8")
    command = ["gcc", "-O1", f"-I{SOURCES}", *flags, str(source), "-lm", "-o", str(program)]
    subprocess.run(command, check=True, capture_output=True)
    return subprocess.run([program], capture_output=True, text=True, check=False)


def test_emulated_registers_compute_and_check(tmp_path: Path) -> None:
    flags = ("-DAPOT_EMULATED_TILES", "-Wno-unused-function")
    assert ran(tmp_path, "", *flags).stdout == "equal\n"
    for name, fault in FAULTS.items():
        assert ran(tmp_path, fault, *flags).returncode < 0, name


# --- on registers of the processor's own ----------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
def test_real_registers_compute_the_same(real: Library, threads: int) -> None:
    networks = [random_network(seed, byte_levels()) for seed in range(10)]
    networks += [random_network(seed, signed_byte_levels()) for seed in range(10)]
    networks += [convolution(*shape[:5]) for shape in SHAPES]
    networks += [convolution(*shape[:5], bits=2) for shape in SHAPES]
    networks += [floats(*shape[:6], others=others) for shape in FLOATS for others in (False, True)]
    for network in networks:
        fast = compile_network(network, threads=threads, library=real)
        assert fast.kernels == "amx"
        assert sum(differences(network, fast, images_of(network, 3)).values()) > 0


def test_real_registers_take_the_largest_numbers(real: Library) -> None:
    builder = Builder(image=(128, 9, 9), seed=1)
    inputs = quantizer(uniform(8, signed=False), 1.0)
    value = builder.convolution("image", 48, (3, 3), uniform(7, signed=True), inputs)
    network = builder.finished(value)
    fast = compile_network(network, library=real)
    assert differences(network, fast, 10 * images_of(network, 2))["integer sums"] > 0
