"""Targets: the oracle's integers and the original's levels in every body."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from apot_export.artifacts.onnx_model import lowering
from apot_export.artifacts.onnx_model.functions import WINOGRAD
from apot_export.artifacts.onnx_model.lowering import TARGETS
from apot_export.artifacts.onnx_model.probe import integers_as_such, with_outputs
from apot_export.encoding.capture import capture
from apot_export.encoding.encode import encode_network
from apot_export.network import (
    AveragePool,
    CodedNetwork,
    Convolution,
    QuantizeActivation,
)
from apot_export.network.codebook import Codebook, apot, uniform
from apot_export.original.choices import Choices
from apot_export.original.published import load_original
from apot_export.runtimes.onnx_runtime import open_session
from apot_export.verification.proof.levels import compare_levels
from tests.support.networks import (
    Floats,
    affine,
    coded,
    every_operation,
    network_of,
    quantizer,
    random_images,
    single_linear,
)
from tests.support.onnx_values import (
    WEIGHT_BOOKS,
    assert_every_value_is_the_oracles,
    bodies,
    model_of,
)
from tests.support.random_coded_networks import SIGNED_INPUTS, random_network
from tests.support.random_networks import write_checkpoint

FAST = TARGETS[1:]

# --- integers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("batch", [1, 3])
def test_every_operation(target: str, batch: int) -> None:
    net = every_operation()
    expected = 2 * batch * (144 + 252 + 252 + 80 + 32 + 7)
    found = assert_every_value_is_the_oracles(net, target, random_images(net, batch))
    assert found == expected


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("seed", range(4))
def test_signed_levels(target: str, seed: int) -> None:
    net = random_network(seed, SIGNED_INPUTS)
    assert assert_every_value_is_the_oracles(net, target, random_images(net, 2)) > 0


@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    groups=st.integers(1, 2),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    book=st.sampled_from([apot(bits, signed=True) for bits in range(2, 7)]),
    inputs=st.sampled_from(
        [
            *(apot(bits, signed=False) for bits in range(2, 7)),
            uniform(5, signed=False),
            *SIGNED_INPUTS,
        ]
    ),
)
def test_convolutions_of_every_geometry(
    target: str,
    seed: int,
    groups: int,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    kernel: tuple[int, int],
    book: Codebook,
    inputs: Codebook,
) -> None:
    layer = coded("x", (2 * groups, 2, *kernel), book, quantizer(inputs, 1.5), seed)
    operation = Convolution(
        layer="x", stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    net = network_of(
        [layer],
        [
            ("levels", QuantizeActivation(layer="x"), "image"),
            ("sums", operation, "levels"),
            ("out", affine(2 * groups, 0), "sums"),
            ("end", AveragePool(kernel=(1, 1), stride=(1, 1)), "out"),
        ],
        (2 * groups, 7, 8),
    )
    assert assert_every_value_is_the_oracles(net, target, random_images(net, 2)) > 0


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    height=st.integers(3, 9),
    width=st.integers(3, 9),
    book=st.sampled_from([apot(bits, signed=True) for bits in range(2, 7)]),
    inputs=st.sampled_from([*(apot(bits, signed=False) for bits in range(2, 7)), *SIGNED_INPUTS]),
)
def test_winograd_convolutions_of_every_geometry(
    seed: int,
    padding: tuple[int, int],
    height: int,
    width: int,
    book: Codebook,
    inputs: Codebook,
) -> None:
    """Odd heights, which leave half a pair of rows, and paddings of all sizes."""
    layer = coded("x", (3, 2, 3, 3), book, quantizer(inputs, 1.5), seed)
    net = network_of(
        [layer],
        [
            ("levels", QuantizeActivation(layer="x"), "image"),
            ("sums", Convolution(layer="x", padding=padding), "levels"),
            ("out", affine(3, 0), "sums"),
            ("end", AveragePool(kernel=(1, 1), stride=(1, 1)), "out"),
        ],
        (2, height, width),
    )
    with mock.patch.object(lowering, "_WINOGRAD_CHANNELS", 1):
        assert bodies(model_of(net, "portable"))["sums"] == WINOGRAD
        assert_every_value_is_the_oracles(net, "portable", random_images(net, 2))


@pytest.mark.parametrize("target", FAST)
@pytest.mark.parametrize("book", WEIGHT_BOOKS, ids=lambda book: f"{book.bits}-bit {book.tables}")
def test_matrices_of_every_codebook(book: Codebook, target: str) -> None:
    codes = np.random.default_rng(book.bits).integers(0, 1 << book.bits, (5, 7))
    for inputs in (apot(4, signed=False), uniform(1, signed=False), uniform(8, signed=False)):
        net = single_linear(book, codes, inputs)
        assert assert_every_value_is_the_oracles(net, target, random_images(net, 3)) == 2 * 3 * 12


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A network of an architecture, and what it computes as the portable model."""

    module: nn.Module
    net: CodedNetwork
    images: Floats
    portable: dict[str, NDArray[Any]]

    @staticmethod
    @cache
    def of(family: str, name: str, choices: Choices) -> Encoded:
        """Make one, the same for all targets."""
        file = "network_32bit.pth.tar" if choices.bits == 32 else "network.pth.tar"
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / file
            size = 64 if name == "MobileNetV2" else None  # 224 shows no other layers
            images = write_checkpoint(path, name, family, images=1, size=size).numpy()
            channels, height, width = shape = images.shape[1:]
            original = load_original(path, choices, (channels, height, width))
        net = encode_network(capture(original.module, shape, original.multi_bit))
        portable = values_of(net, "portable", images)
        return Encoded(module=original.module, net=net, images=images, portable=portable)


def values_of(net: CodedNetwork, target: str, images: Floats) -> dict[str, NDArray[Any]]:
    session = open_session(with_outputs(model_of(net, target)), "cpu")
    return integers_as_such(net, session.run_all(images))


@pytest.mark.parametrize("target", FAST)
@pytest.mark.parametrize(
    ("family", "name", "choices"),
    [
        ("apot-v1", "ResNet-20 (CIFAR)", Choices(bits=3)),
        ("apot-v2", "ResNet-14 (MNIST)", Choices(bits=2)),
        ("apot-v2", "ResNet-14 (MNIST)", Choices(bits=5)),
        ("apot-v2", "ResNet-14 (MNIST)", Choices(bits=6)),
        ("apot-v2", "ResNet-14 (MNIST)", Choices(bits=4, method="pot")),
        ("apot-v2", "ResNet-14 (MNIST)", Choices(bits=8, method="uniform")),
        ("apot-v2", "ResNet-14 (MNIST)", Choices(bits=4, method="uniform")),
        ("apot-v2", "MobileNetV2", Choices(bits=4)),
        ("nonzero", "ResNet-20 (CIFAR)", Choices(bits=2, grid="nonzero", z=2)),
        ("full-precision", "ResNet-14 (MNIST)", Choices(bits=32)),
    ],
    ids=str,
)
def test_architectures_and_level_sets(
    family: str, name: str, choices: Choices, target: str
) -> None:
    encoded = Encoded.of(family, name, choices)
    values = values_of(encoded.net, target, encoded.images)
    assert values.keys() == encoded.portable.keys()
    for name_, value in values.items():
        portable = encoded.portable[name_]
        assert (value.dtype == np.float32) == (portable.dtype == np.float32)
        assert value.shape == portable.shape
    found = compare_levels(encoded.module, encoded.images, values)
    assert found.unexplained == 0, found.offenders
    assert found.values_outside == 0, found.offenders


def test_boundaries_of_levels_are_the_oracles() -> None:
    """Inputs on both sides of every decision point, and what lies far outside of them."""
    book = apot(4, signed=False)
    inputs = quantizer(book, 1.3)
    points = np.arange(-2, 2 * book.denominator + 3) / inputs.index_scale
    around = [
        np.nextafter(points.astype(np.float32), np.float32(side), dtype=np.float32)
        for side in (-np.inf, np.inf)
    ]
    values = np.concatenate([points.astype(np.float32), *around, [1e30, -1e30, 0.0, -0.0]])
    layer = coded("x", (1, 1, 1, 1), book, inputs)
    net = network_of(
        [layer],
        [
            ("levels", QuantizeActivation(layer="x"), "image"),
            ("sums", Convolution(layer="x"), "levels"),
            ("out", affine(1, 0), "sums"),
        ],
        (1, 1, values.size),
    )
    for target in TARGETS:
        images = values.astype(np.float32).reshape(1, 1, 1, -1)
        assert_every_value_is_the_oracles(net, target, images)
