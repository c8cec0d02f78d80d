"""The native kernels against the oracle: levels, sums and floats, on every kind of processor."""

from __future__ import annotations

import dataclasses
import platform
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apot_export.network import (
    Add,
    CodedLayer,
    CodedNetwork,
    Concat,
    GlobalAveragePool,
    MaxPool,
    Relu,
    ScaleBias,
)
from apot_export.network.bitpack import pack
from apot_export.network.codebook import apot, uniform
from apot_export.runtimes.native import compile_network
from apot_export.runtimes.native._library import Library
from apot_export.runtimes.native._lower import _best_run
from tests.support import random_coded_networks
from tests.support.emulated_tiles import emulating_library
from tests.support.native_checks import byte_levels, differences, signed_byte_levels
from tests.support.networks import Builder, images_of, quantizer, small_network
from tests.support.random_coded_networks import WEIGHTS, plane_network, random_network, two_layers

pytestmark = pytest.mark.skipif(
    not (shutil.which("cc") or shutil.which("gcc")), reason="no C compiler"
)
ON_ARM = platform.machine().lower() in {"arm64", "aarch64"}
OF_X86 = ("avx512_vbmi", "avx512", "avx_vnni", "avx2")
KERNELS = ("amx", *(("neon",) if ON_ARM else OF_X86), "plain")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return emulating_library(tmp_path_factory.mktemp("kernels"), "-O3", "-Werror")


@pytest.fixture(params=KERNELS)
def kernels(request: pytest.FixtureRequest, library: Library) -> str:
    name: str = request.param
    if name not in library.kernels:
        pytest.skip(f"this processor has no {name}")
    return name


@pytest.fixture
def byte_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_coded_networks, "INPUTS", byte_levels())


def compared(network: CodedNetwork, library: Library, kernels: str, threads: int = 1) -> int:
    fast = compile_network(network, threads=threads, kernels=kernels, library=library)
    counts = differences(network, fast, images_of(network, 3))
    return sum(counts.values())


# --- the same numbers as the oracle ---------------------------------------------------------------


@pytest.mark.usefixtures("byte_inputs")
@pytest.mark.parametrize("seed", range(30))
def test_random_networks(library: Library, kernels: str, seed: int) -> None:
    network = random_network(seed)
    fast = compile_network(network, kernels=kernels, library=library)
    assert fast.kernels == kernels
    counts = differences(network, fast, images_of(network, 3))
    assert counts["levels"] > 0
    assert counts["integer sums"] > 0
    assert counts["float sums"] > 0


@pytest.mark.parametrize("seed", range(12))
def test_random_networks_of_signed_levels(library: Library, kernels: str, seed: int) -> None:
    network = random_network(seed, signed_byte_levels())
    fast = compile_network(network, kernels=kernels, library=library)
    counts = differences(network, fast, images_of(network, 3))
    assert counts["levels"] > 0
    assert counts["integer sums"] > 0


@pytest.mark.usefixtures("byte_inputs")
@pytest.mark.parametrize("threads", [2, 3, 7])
def test_threads_share_the_work(library: Library, threads: int) -> None:
    for seed in range(6):
        network = random_network(seed)
        assert compared(network, library, library.kernels[0], threads) > 0


@pytest.mark.parametrize("weights", range(len(WEIGHTS)))
def test_every_codebook(library: Library, kernels: str, weights: int) -> None:
    for seed, inputs in enumerate([*byte_levels(), *signed_byte_levels()]):
        assert compared(two_layers(WEIGHTS[weights], inputs, seed), library, kernels) > 0


def test_sign_vectors_are_floats(library: Library, kernels: str) -> None:
    for seed in range(3):
        assert compared(plane_network(seed), library, kernels) > 0


def test_a_network_of_every_operation(library: Library, kernels: str) -> None:
    assert compared(small_network(), library, kernels) > 0


@given(
    channels=st.integers(1, 70),
    outputs=st.integers(1, 70),
    size=st.tuples(st.integers(1, 17), st.integers(1, 17)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    quantized=st.booleans(),
    bits=st.integers(2, 5),
    choice=st.integers(0, 2),
)
def test_convolutions_of_every_shape(
    library: Library,
    channels: int,
    outputs: int,
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    quantized: bool,
    bits: int,
    choice: int,
) -> None:
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    size = tuple(max(s, r - 2 * p) for s, r, p in zip(size, reach, padding, strict=True))  # type: ignore[assignment]
    builder = Builder(image=(channels, *size), seed=channels * 71 + outputs)
    inputs = quantizer(apot(bits, signed=False), 1.0) if quantized else None
    value = builder.convolution(
        "image",
        outputs,
        kernel,
        apot(bits, signed=True),
        inputs,
        stride=stride,
        padding=padding,
        dilation=dilation,
    )
    network = builder.finished(builder.add(Relu(), value))
    chosen = library.kernels[choice % len(library.kernels)]
    assert compared(network, library, chosen) > 0


@pytest.mark.parametrize(
    ("inputs", "outputs", "groups"), [(32, 32, 2), (24, 48, 3), (6, 4, 2), (8, 96, 2), (12, 12, 12)]
)
@pytest.mark.parametrize("quantized", [True, False])
def test_groups(
    library: Library, kernels: str, inputs: int, outputs: int, groups: int, quantized: bool
) -> None:
    builder = Builder(image=(3, 9, 8), seed=groups)
    value = builder.convolution("image", inputs, (1, 1), uniform(7, signed=True))
    levels = quantizer(apot(3, signed=False), 0.8) if quantized else None
    book = apot(3, signed=True)
    value = builder.convolution(
        value, outputs, (3, 3), book, levels, groups=groups, padding=(1, 1), stride=(2, 1)
    )
    assert compared(builder.head(value, 5, book), library, kernels) > 0


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (1, 1), (5, 30), (14, 9)])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_winograd(library: Library, kernels: str, size: tuple[int, int], bits: int) -> None:
    builder = Builder(image=(64, *size), seed=bits)
    book, inputs = apot(max(2, bits - 1), signed=True), apot(bits, signed=False)
    value = builder.convolution("image", 96, (3, 3), book, quantizer(inputs, 0.9), padding=(1, 1))
    other = builder.convolution("image", 96, (1, 1), book, quantizer(inputs, 1.1))
    network = builder.finished(builder.add(Relu(), builder.add(Add(), other, value)))
    fast = compile_network(network, kernels=kernels, library=library, threads=2)
    assert any("spread" in name for name in fast.steps)
    # Corners of the range: every level 0, every level the largest, and both in turn.
    images = images_of(network, 3)
    images[0, :, ::2, ::2] = 100
    images[0, :, 1::2] = -100
    assert differences(network, fast, images)["integer sums"] > 0


@pytest.mark.parametrize("size", [(32, 32), (5, 3), (1, 1), (16, 17), (4, 70)])
@pytest.mark.parametrize(("inputs", "outputs"), [(16, 16), (32, 32), (48, 16), (80, 64), (64, 32)])
def test_winograd_of_every_width(
    library: Library, kernels: str, inputs: int, outputs: int, size: tuple[int, int]
) -> None:
    builder = Builder(image=(inputs, *size), seed=outputs)
    book, levels = apot(3, signed=True), apot(4, signed=False)
    value = builder.convolution(
        "image", outputs, (3, 3), book, quantizer(levels, 0.9), padding=(1, 1)
    )
    value = builder.add(Relu(), value)
    network = builder.finished(
        builder.convolution(value, outputs, (3, 3), book, quantizer(levels, 7.0), padding=(1, 1))
    )
    fast = compile_network(network, kernels=kernels, library=library, threads=3)
    narrow = kernels in {"avx_vnni", "avx2", "neon"} and inputs % 64
    assert any("spread" in name for name in fast.steps) == (not narrow or outputs % 64 == 0)
    assert differences(network, fast, images_of(network, 2))["integer sums"] > 0


def test_winograd_of_the_largest_weights(library: Library, kernels: str) -> None:
    builder = Builder(image=(64, 6, 6))
    levels = quantizer(uniform(5, signed=False), 1.0)
    value = builder.convolution(
        "image", 32, (3, 3), uniform(4, signed=True), levels, padding=(1, 1)
    )
    layer = builder.layers["layer0"]
    assert isinstance(layer, CodedLayer)
    codes = np.full((32, 64, 3, 3), 14, dtype=np.uint8)  # 9 * 14 = 126
    codes[::2] |= np.uint8(0x10)
    builder.layers["layer0"] = dataclasses.replace(layer, stored=pack(codes, 5))
    network = builder.finished(value)
    fast = compile_network(network, kernels=kernels, library=library)
    assert any("spread" in name for name in fast.steps)
    images = np.full((1, 64, 6, 6), 10, dtype=np.float32)
    assert differences(network, fast, images)["integer sums"] == 32 * 36
    builder.layers["layer0"] = dataclasses.replace(layer, stored=pack(codes | np.uint8(1), 5))
    network = builder.finished(value)  # 9 * 15 leaves int8
    fast = compile_network(network, kernels=kernels, library=library)
    assert not any("spread" in name for name in fast.steps)
    assert differences(network, fast, images)["integer sums"] == 32 * 36


@pytest.mark.parametrize("sign", [1, -1])
def test_what_only_grows_follows_the_pool(
    library: Library, kernels: str, monkeypatch: pytest.MonkeyPatch, sign: int
) -> None:
    scale = np.linspace(0.001, 0.1, 16, dtype=np.float32)
    scale[5] *= sign
    affine = ScaleBias(scale=scale, bias=np.linspace(-3, 3, 16, dtype=np.float32))
    monkeypatch.setattr(Builder, "affine", lambda self, value, _, **__: self.add(affine, value))
    builder = Builder(image=(3, 12, 14), seed=7)
    value = builder.convolution("image", 16, (3, 3), uniform(7, signed=True), padding=(1, 1))
    value = builder.add(Relu(), value)
    value = builder.add(MaxPool(kernel=(3, 3), stride=(2, 2), padding=(1, 1)), value)
    network = builder.finished(value)
    fast = compile_network(network, kernels=kernels, library=library)
    counts = differences(network, fast, images_of(network, 2))
    assert counts["float sums"] > 0
    finish = fast._program.steps[1].finish
    assert bool(finish.scale) == (sign < 0)


@pytest.mark.parametrize("image", ["alone", "with others"])
def test_a_pool_after_the_first_layer(library: Library, kernels: str, image: str) -> None:
    builder = Builder(image=(3, 23, 30), seed=3)
    book = uniform(7, signed=True)
    value = builder.convolution("image", 24, (7, 7), book, stride=(2, 2), padding=(3, 3))
    value = builder.add(Relu(), value)
    pooled = builder.add(MaxPool(kernel=(3, 3), stride=(2, 2), padding=(1, 1)), value)
    inputs = quantizer(apot(4, signed=False), 1.3)
    value = builder.convolution(pooled, 24, (3, 3), apot(4, signed=True), inputs, padding=(1, 1))
    value = builder.add(Relu(), builder.add(Add(), value, pooled))
    if image == "with others":
        pool = builder.add(MaxPool(kernel=(4, 4), stride=(4, 4), padding=(2, 1)), "image")
        value = builder.add(Concat(), value, pool)
    network = builder.head(builder.add(GlobalAveragePool(), value), 5, book)
    fast = compile_network(network, kernels=kernels, library=library, threads=2)
    assert differences(network, fast, images_of(network, 2))["levels"] > 0
    assert not any(name.startswith("maxpool2") for name in fast.steps)


@pytest.mark.parametrize("readers", range(1, 6))
def test_values_with_several_quantizers(library: Library, kernels: str, readers: int) -> None:
    builder = Builder(image=(2, 6, 6), seed=readers)
    first = builder.convolution("image", 20, (3, 3), apot(3, signed=True), padding=(1, 1))
    value = first
    for number in range(readers):
        inputs = quantizer(uniform(8, signed=False), 0.7 + number / 3)
        other = builder.convolution(first, 20, (1, 1), apot(3, signed=True), inputs)
        value = builder.add(Add(), value, other)
    network = builder.finished(builder.add(Add(), value, value))
    assert compared(network, library, kernels) > 0


def test_the_largest_levels_and_weights(library: Library, kernels: str) -> None:
    # Pairs of 255 * 127 leave int16; 1,152 of them have one sign.
    builder = Builder(image=(128, 5, 5), seed=1)
    inputs = quantizer(uniform(8, signed=False), 1.0)
    value = builder.convolution("image", 16, (3, 3), uniform(7, signed=True), inputs)
    layer = builder.layers["layer0"]
    assert isinstance(layer, CodedLayer)
    signs = np.repeat([0, 0x80], 8).astype(np.uint8)
    layer.packed[...] = np.repeat(signs | 0x7F, 128 * 9)
    network = builder.finished(value)
    fast = compile_network(network, kernels=kernels, library=library)
    images = np.full((1, 128, 5, 5), 10, dtype=np.float32)
    assert differences(network, fast, images)["integer sums"] > 0


def test_indices_at_and_beyond_every_decision_point(library: Library, kernels: str) -> None:
    for book in (apot(4, signed=False), apot(5, signed=False), uniform(8, signed=False)):
        found = quantizer(book, 1.37)
        points = np.arange(found.last_index + 1, dtype=np.float32) / found.index_scale
        around = np.concatenate(
            [points, np.nextafter(points, np.float32(9)), np.nextafter(points, np.float32(-9))]
        )
        special = np.array([-0.0, -1, -np.inf, np.inf, 3e38, 1e-45], dtype=np.float32)
        values = np.concatenate([around, special])
        builder = Builder(image=(1, 1, len(values)))
        network = builder.finished(
            builder.convolution("image", 1, (1, 1), apot(2, signed=True), found)
        )
        fast = compile_network(network, kernels=kernels, library=library)
        with np.errstate(over="ignore"):
            counts = differences(network, fast, values.reshape(1, 1, 1, -1))
        assert counts["levels"] == len(values)


@pytest.mark.parametrize("width", range(1, 40))
def test_runs_cover_every_width(width: int) -> None:
    run = _best_run(width)
    assert 1 <= run <= min(7, width)
    assert -(-width // run) * run - width < run
