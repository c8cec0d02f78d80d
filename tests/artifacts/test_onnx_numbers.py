"""ONNX models on ONNX Runtime: every codebook, geometry and float, and the proven bounds."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apot_export.artifacts.onnx_model import serialise
from apot_export.errors import BoundError
from apot_export.network import (
    CodedLayer,
    Convolution,
    Flatten,
    Linear,
    Operation,
    QuantizeActivation,
    Relu,
    oracle,
)
from apot_export.network.bounds import FLOAT32_EXACT, Proof, accumulator_bound, prove
from apot_export.network.codebook import Codebook, apot, uniform
from tests.support.networks import (
    affine,
    coded,
    network_of,
    quantizer,
    random_images,
    single_linear,
)
from tests.support.onnx_values import (
    DISABLED,
    EVERYTHING,
    WEIGHT_BOOKS,
    assert_integers_are_the_oracles,
    model_of,
    run_all,
)


@pytest.mark.parametrize("book", WEIGHT_BOOKS, ids=lambda book: f"{book.bits}-bit {book.tables}")
@pytest.mark.parametrize("shape", [(3, 1, 3, 3), (1, 1, 1, 1), (5, 7), (3, 683)], ids=str)
def test_decoded_weights_are_the_levels(book: Codebook, shape: tuple[int, ...]) -> None:
    layer = coded("x", shape, book, None, 5)
    operation: Operation = Convolution(layer="x") if len(shape) == 4 else Linear(layer="x")
    graph: list[tuple[str, Operation, str]] = [("sums", operation, "image")]
    image = (shape[1], 3, 3)
    if len(shape) == 2:
        graph, image = [("flat", Flatten(), "image"), ("sums", operation, "flat")], (1, 1, shape[1])
    model = model_of(network_of([layer], graph, image))
    decoded = onnx.ValueInfoProto(name="x.levels_of_weights")
    model.graph.output.append(decoded)
    for level in (DISABLED, EVERYTHING):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        session = onnxruntime.InferenceSession(
            serialise(model), options, providers=["CPUExecutionProvider"]
        )
        images = np.zeros((1, *image), dtype=np.float32)
        found = run_all(session, images)["x.levels_of_weights"]
        np.testing.assert_array_equal(found, layer.levels())


@pytest.mark.parametrize("book", WEIGHT_BOOKS, ids=lambda book: f"{book.bits}-bit {book.tables}")
def test_matrices_of_every_codebook(book: Codebook) -> None:
    rng = np.random.default_rng(book.bits)
    codes = rng.integers(0, 1 << book.bits, (5, 7))
    for inputs in (apot(4, signed=False), uniform(1, signed=False), uniform(5, signed=False)):
        graph = single_linear(book, codes, inputs)
        assert assert_integers_are_the_oracles(graph, random_images(graph, 3)) == 4 * 3 * (7 + 5)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    groups=st.integers(1, 3),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    book=st.sampled_from(WEIGHT_BOOKS),
    inputs=st.sampled_from([apot(bits, signed=False) for bits in range(2, 7)]),
)
def test_convolutions_of_every_geometry(
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
    try:
        prove(network_of([layer], [("o", Relu(), "image")], (1, 1, 1)))
    except BoundError:
        assert accumulator_bound(layer) >= FLOAT32_EXACT
        return
    operation = Convolution(
        layer="x", stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    graph: list[tuple[str, Operation, str]] = [
        ("levels", QuantizeActivation(layer="x"), "image"),
        ("sums", operation, "levels"),
        ("out", affine(2 * groups, 0), "sums"),
    ]
    net = network_of([layer], graph, (2 * groups, 7, 8))
    assert assert_integers_are_the_oracles(net, random_images(net, 2)) > 0


# --- bounds ---------------------------------------------------------------------------------------

WIDEST = 258
WIDEST_SPLIT = (FLOAT32_EXACT - 1) // (255 * 15)  # taps of which either half of the bits fits
"""Products of 255 and 255 that stay below 2 ** 24 together."""


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), share=st.sampled_from([0.0, 0.01, 0.3]))
def test_accumulators_near_two_to_the_24_are_exact(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    codes = np.full((4, WIDEST), 255)
    codes[1] += 256
    codes[2:] = rng.choice([0, 255, 511], (2, WIDEST))
    noise = rng.random(codes.shape) < share
    codes[noise] = rng.integers(0, 512, int(noise.sum()))
    graph = single_linear(uniform(8, signed=True), codes, uniform(8, signed=False))
    layer = graph.layers["x"]
    assert isinstance(layer, CodedLayer)
    assert accumulator_bound(layer) < FLOAT32_EXACT
    images = rng.choice(
        [1.0, 0.0, 2.0, 0.999, 0.5], (6, 1, 1, WIDEST), p=[0.9, 0.025, 0.025, 0.025, 0.025]
    )
    images[0] = 1
    # The inputs that let each row reach its extremes, in the order that matters least.
    images[1:5] = (layer.levels() > 0)[:, None, None, :]
    assert_integers_are_the_oracles(graph, images.astype(np.float32))
    sums = oracle.compute(
        graph, graph.nodes[2], [images.reshape(6, -1).astype(np.int64).clip(0, 1) * 255]
    )
    if share == 0:
        assert np.abs(sums).max() == accumulator_bound(layer) == WIDEST * 255 * 255
    assert np.abs(sums).max() <= accumulator_bound(layer)


@pytest.mark.parametrize("channels", [28, 200])
@pytest.mark.parametrize("code", [255, 511])
def test_convolutions_near_two_to_the_24_are_exact(channels: int, code: int) -> None:
    """28 channels fill a 3 x 3 kernel to its bound; 200 have a kernel of 1 x 1."""
    kernel = (3, 3) if channels == 28 else (1, 1)
    rng = np.random.default_rng(channels)
    codes = np.full((16, channels, *kernel), code)
    codes[1:] -= rng.integers(0, 2, codes[1:].shape)
    layer = coded(
        "x", codes.shape, uniform(8, signed=True), quantizer(uniform(8, signed=False), 1), codes
    )
    assert accumulator_bound(layer) == codes[0].size * 255 * 255 < FLOAT32_EXACT
    padding = (kernel[0] // 2, kernel[1] // 2)
    graph: list[tuple[str, Operation, str]] = [
        ("levels", QuantizeActivation(layer="x"), "image"),
        ("sums", Convolution(layer="x", padding=padding), "levels"),
        ("out", affine(16, 0), "sums"),
    ]
    net = network_of([layer], graph, (channels, 9, 10))
    images = 1 - rng.integers(0, 2, (2, *net.input_shape)) * rng.uniform(0, 0.02)
    images[0] = 1
    assert_integers_are_the_oracles(net, images.astype(np.float32))


@given(seed=st.integers(0, 2**32 - 1), book=st.sampled_from(WEIGHT_BOOKS))
def test_the_bound_is_reached_and_never_passed(seed: int, book: Codebook) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 1 << book.bits, (3, 11))
    inputs = apot(3, signed=False)
    layer = coded("x", codes.shape, book, quantizer(inputs, 1), codes)
    levels = layer.levels().astype(np.int64)
    largest = int(inputs.levels.max())
    worst = np.concatenate([(levels > 0) * largest, (levels < 0) * largest])
    sums = worst @ levels.T
    assert accumulator_bound(layer) == np.abs(sums).max()
    some = rng.integers(0, largest + 1, (50, 11))
    partial = np.cumsum(some[:, None] * levels[None], axis=2)
    assert np.abs(partial).max() <= accumulator_bound(layer)


@pytest.mark.parametrize(
    ("taps", "bound", "split"),
    [([1], 1 << 23, 0), ([1, 3], 1 << 23, 0), ([1, 1], 1 << 24, 2), ([3, 3], 1 << 24, 2)],
)
def test_sums_that_could_reach_two_to_the_24_are_split(
    taps: list[int], bound: int, split: int
) -> None:
    """Codes 1 and 3 mean plus and minus 2 ** 21; inputs reach 4."""
    book = Codebook(tables=((0, 1 << 21),), denominator=1, signed=True)
    graph = single_linear(book, np.array([taps]), apot(2, signed=False))
    assert prove(graph) == {"x": Proof(bound=bound, split=split)}
    images = np.ones((1, *graph.input_shape), dtype=np.float32)
    assert assert_integers_are_the_oracles(graph, images) > 0


def test_the_widest_layer_that_can_be_split_is_exact() -> None:
    graph = single_linear(
        uniform(8, signed=True), np.full((1, WIDEST_SPLIT), 255), uniform(8, signed=False)
    )
    images = np.ones((1, *graph.input_shape), dtype=np.float32)
    assert assert_integers_are_the_oracles(graph, images) > 0


def test_one_tap_more_than_fits_is_refused() -> None:
    codes = np.full((1, WIDEST_SPLIT + 1), 255)
    with pytest.raises(BoundError, match="could leave the integers") as caught:
        model_of(single_linear(uniform(8, signed=True), codes, uniform(8, signed=False)))
    assert caught.value.where == "x"
    assert str((WIDEST_SPLIT + 1) * 255 * 255) in str(caught.value.got)


def test_levels_beyond_16_bits_are_carried() -> None:
    inputs = Codebook(tables=((0, 1 << 17), (0, 1)), denominator=1 << 17, signed=False)
    graph = single_linear(uniform(2, signed=True), np.array([[1, 3, 7, 2]]), inputs)
    images = np.array([1, 0.7, 1.0, 0.2], dtype=np.float32).reshape(1, 1, 1, 4)
    assert_integers_are_the_oracles(graph, images)


# --- quantizers -----------------------------------------------------------------------------------

INPUT_BOOKS = [
    *(apot(bits, signed=False) for bits in range(2, 7)),
    *(uniform(bits, signed=False) for bits in (1, 2, 3, 4, 5, 6, 8)),
]


@settings(max_examples=30)
@given(
    book=st.sampled_from(INPUT_BOOKS),
    alpha=st.floats(2.0**-100, 2.0**100, width=32),
    values=st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=50),
    seed=st.integers(0, 2**32 - 1),
)
def test_quantizer_on_any_floats(
    book: Codebook, alpha: float, values: list[float], seed: int
) -> None:
    scale = np.float32(2 * book.denominator) / np.float32(alpha)
    points = (np.arange(2 * book.denominator + 2) / np.float64(scale)).astype(np.float32)
    near = (points.view(np.int32)[:, None] + np.arange(-2, 3, dtype=np.int32)).reshape(-1)
    near = near[near >= 0].view(np.float32)
    normal = np.random.default_rng(seed).normal(size=100).astype(np.float32) * np.float32(alpha)
    extreme = np.array([0, -0.0, np.inf, -np.inf, 3.4e38, -3.4e38, 1e-45, 1e-38], np.float32)
    everything = np.concatenate([np.array(values, np.float32), near, normal, extreme])
    codes = np.ones((1, everything.size), dtype=np.uint8)
    graph = single_linear(uniform(1, signed=True), codes, book, alpha)
    assert_integers_are_the_oracles(graph, everything.reshape(1, 1, 1, -1))
