"""The oracle, held against nested loops in exact integers and PyTorch in float64."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from apot_export.errors import DatasetError
from apot_export.network import (
    ActivationQuantizer,
    Add,
    AveragePool,
    CodedLayer,
    CodedNetwork,
    Convolution,
    Flatten,
    FloatLayer,
    GlobalAveragePool,
    Layer,
    Linear,
    MaxPool,
    Network,
    Node,
    Operation,
    QuantizeActivation,
    Relu,
    ScaleBias,
)
from apot_export.network.bitpack import pack
from apot_export.network.codebook import Codebook, apot
from apot_export.network.oracle import compute, run, shift_add_product
from tests.support.networks import network_of, small_network

Array = np.ndarray[Any, np.dtype[Any]]
PROPERTY = settings(derandomize=True, deadline=None, max_examples=60)


def coded(name: str, shape: tuple[int, ...], *, quantized: bool = True) -> CodedLayer:
    book = apot(3, signed=True)
    codes = np.random.default_rng(len(shape)).integers(0, 16, size=shape).astype(np.uint8)
    levels = ActivationQuantizer(codebook=apot(2, signed=False), alpha=np.float32(1))
    return CodedLayer(
        name=name,
        shape=shape,
        stored=pack(codes, book.bits),
        codebook=book,
        step=0.1,
        values=(book.levels * np.float32(0.1)).astype(np.float32),
        activation=levels if quantized else None,
    )


def single(operation: Operation, layer: Layer | None, shape: tuple[int, ...]) -> CodedNetwork:
    layers = [] if layer is None else [layer]
    return network_of(layers, [("node", operation, "image")], shape)


def applied(operation: Operation, layer: Layer | None, value: Array) -> Array:
    graph = single(operation, layer, value.shape[1:])
    result = compute(graph, graph.nodes[0], [value])
    assert result.shape == (value.shape[0], *graph.shapes["node"])
    return result


def weights_of(layer: Layer) -> Array:
    return layer.levels() if isinstance(layer, CodedLayer) else layer.weights()


def convolved(operation: Convolution, layer: Layer, value: Array) -> Array:
    """Convolve in float64, where the integers of these tests are exact."""
    return functional.conv2d(
        torch.from_numpy(value.astype(np.float64)),
        torch.from_numpy(weights_of(layer).astype(np.float64)),
        stride=operation.stride,
        padding=operation.padding,
        dilation=operation.dilation,
        groups=operation.groups,
    ).numpy()


def assert_rounded_once(found: Array, exact: Array) -> None:
    """Sums in float64 may differ in their last bits, so in one unit of float32 at the most."""
    assert found.dtype == np.float32
    tolerance = np.spacing(np.abs(exact).astype(np.float32)) + 1e-12
    assert (np.abs(found - exact) <= tolerance).all()


# --- quantized layers -----------------------------------------------------------------------------


ADDENDS = st.sampled_from([0, 0, 1, -1, 2, 4, -8, 32, 1 << 12])
TABLES = st.lists(st.tuples(*[ADDENDS] * 4), min_size=1, max_size=3).map(tuple)


@PROPERTY
@given(TABLES, st.booleans(), st.integers(0, 2**32 - 1))
def test_shifts_and_additions_multiply(
    tables: tuple[tuple[int, ...], ...], signed: bool, seed: int
) -> None:
    book = Codebook(tables=tables, denominator=1, signed=signed)
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 1 << book.bits, size=(3, 5)).astype(np.uint8)
    levels = rng.integers(0, 449, size=(4, 5))
    expected = [
        [
            sum(int(x) * int(book.levels[code]) for x, code in zip(row, out, strict=True))
            for out in codes
        ]
        for row in levels
    ]
    assert shift_add_product(levels, codes, book).tolist() == expected


def test_convolution_against_nested_loops() -> None:
    layer = coded("layer", (4, 2, 3, 2))
    step, pad, gap, groups = (2, 1), (1, 2), (1, 2), 2
    operation = Convolution(layer="layer", stride=step, padding=pad, dilation=gap, groups=groups)
    image = np.random.default_rng(0).integers(0, 5, size=(2, 4, 6, 5))
    found = applied(operation, layer, image)
    assert found.shape == (2, 4, 3, 7)
    weights = layer.levels()
    for n, o, r, c in product(*map(range, found.shape)):
        total = 0
        for j, u, v in product(*map(range, layer.shape[1:])):
            y, x = r * step[0] + u * gap[0] - pad[0], c * step[1] + v * gap[1] - pad[1]
            if 0 <= y < 6 and 0 <= x < 5:
                total += int(weights[o, j, u, v]) * int(image[n, o // 2 * 2 + j, y, x])
        assert found[n, o, r, c] == total


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 5)])
@pytest.mark.parametrize(
    ("stride", "padding", "dilation"),
    [((1, 1), (0, 0), (1, 1)), ((2, 2), (1, 1), (1, 1)), ((1, 3), (2, 0), (2, 1))],
)
def test_convolution_against_torch(
    groups: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> None:
    operation = Convolution(
        layer="layer", stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    shape = (12, 6 // groups, *kernel)
    rng = np.random.default_rng(groups)
    levels = rng.integers(0, 5, size=(2, 6, 9, 10))
    layer = coded("layer", shape)
    found = applied(operation, layer, levels)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, convolved(operation, layer, levels))
    values = rng.normal(size=(2, 6, 9, 10)).astype(np.float32)
    weight = rng.normal(size=shape).astype(np.float32)
    for float_input in (
        coded("layer", shape, quantized=False),
        FloatLayer(name="layer", stored=weight),
    ):
        found = applied(operation, float_input, values)
        assert_rounded_once(found, convolved(operation, float_input, values))


def test_linear() -> None:
    rng = np.random.default_rng(3)
    levels, values = rng.integers(0, 5, size=(3, 7)), rng.normal(size=(3, 7)).astype(np.float32)
    layer, last = coded("layer", (5, 7)), coded("layer", (5, 7), quantized=False)
    plain = FloatLayer(name="layer", stored=rng.normal(size=(5, 7)).astype(np.float32))
    found = applied(Linear(layer="layer"), layer, levels)
    assert found.tolist() == (levels @ layer.levels().T).tolist()
    for float_input in (last, plain):
        exact = values.astype(np.float64) @ weights_of(float_input).astype(np.float64).T
        assert_rounded_once(applied(Linear(layer="layer"), float_input, values), exact)


# --- everything else ------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [(2, 3, 4, 5), (50, 3)])
def test_scale_and_bias_round_twice(axes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(5)
    scale, bias = (rng.normal(size=3).astype(np.float32) for _ in range(2))
    for value in (rng.normal(size=axes).astype(np.float32), rng.integers(-(2**24), 2**24, axes)):
        found = applied(ScaleBias(scale=scale, bias=bias), None, value)
        shape = (1, 3, *[1] * (len(axes) - 2))
        wide, offset = (part.astype(np.float64).reshape(shape) for part in (scale, bias))
        # Products and sums of two float32 numbers, rounded to float64 first, round no worse.
        product_once = (value.astype(np.float64) * wide).astype(np.float32)
        expected = (product_once.astype(np.float64) + offset).astype(np.float32)
        assert found.tobytes() == expected.tobytes()
        fused = (value.astype(np.float64) * wide + offset).astype(np.float32)
        assert (found != fused).any()


def test_pools_against_torch() -> None:
    image = np.random.default_rng(6).normal(size=(2, 3, 7, 8)).astype(np.float32) - 5
    tensor = torch.from_numpy(image.astype(np.float64))
    for stride, padding in (((1, 1), (0, 0)), ((2, 3), (1, 1)), ((3, 2), (0, 1))):
        largest = applied(MaxPool(kernel=(3, 2), stride=stride, padding=padding), None, image)
        expected = functional.max_pool2d(tensor, (3, 2), stride, padding).numpy()
        np.testing.assert_array_equal(largest, expected)
        mean = applied(AveragePool(kernel=(3, 2), stride=stride), None, image)
        assert_rounded_once(mean, functional.avg_pool2d(tensor, (3, 2), stride).numpy())
    found = applied(GlobalAveragePool(), None, image)
    assert_rounded_once(found, tensor.mean(dim=(2, 3), keepdim=True).numpy())


def test_elementwise_operations_and_flatten() -> None:
    image = np.random.default_rng(8).normal(size=(2, 3, 2, 2)).astype(np.float32)
    np.testing.assert_array_equal(applied(Relu(), None, image), np.where(image > 0, image, 0))
    assert applied(Flatten(), None, image).tolist() == [list(row.reshape(12)) for row in image]
    node = Node(name="node", inputs=("image", "image"), operation=Add())
    added = compute(single(Relu(), None, (3, 2, 2)), node, [image, image])
    assert added.tobytes() == (image * 2).tobytes()


# --- networks -------------------------------------------------------------------------------------


def test_a_network_computes_its_nodes_in_order() -> None:
    graph = small_network()
    images = np.random.default_rng(2).normal(size=(3, *graph.input_shape)).astype(np.float32)
    seen: dict[str, Array] = {graph.input: images}
    logits = run(graph, images, observe=seen.__setitem__)
    assert list(seen) == [graph.input, *(node.name for node in graph.nodes)]
    assert logits.tobytes() == seen[graph.output].tobytes()
    for node in graph.nodes:
        again = compute(graph, node, [seen[name] for name in node.inputs])
        assert again.tobytes() == seen[node.name].tobytes()
        assert seen[node.name].shape == (3, *graph.shapes[node.name])
        integral = isinstance(node.operation, QuantizeActivation) or node.name.endswith(".sums")
        layer = graph.layers.get(getattr(node.operation, "layer", ""))
        integral &= isinstance(layer, CodedLayer) and layer.activation is not None
        assert seen[node.name].dtype == (np.int64 if integral else np.float32)
    assert logits.std() > 0


def test_a_value_may_be_read_again_later_and_the_output_be_an_early_one() -> None:
    nodes = (
        Node(name="a", inputs=("image",), operation=Relu()),
        Node(name="b", inputs=("a", "a"), operation=Add()),
        Node(name="c", inputs=("b", "image"), operation=Add()),
        Node(name="d", inputs=("c", "a"), operation=Add()),
        Node(name="e", inputs=("d",), operation=Flatten()),
    )
    image = np.array([[[[-1.0]], [[2.0]]]], dtype=np.float32)
    for output, expected in (("a", [0, 2]), ("c", [-1, 6]), ("e", [-1, 8]), ("image", [-1, 2])):
        graph = Network[Layer](
            nodes=nodes, layers={}, input="image", input_shape=(2, 1, 1), output=output
        )
        assert run(graph, image).reshape(-1).tolist() == expected


@pytest.mark.parametrize("shape", [(3, 9, 8), (1, 3, 8, 9), (1, 3, 9, 8, 1), (0,)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DatasetError, match=r"\[N, 3, 9, 8\]"):
        run(small_network(), np.zeros(shape, dtype=np.float32))


def test_a_layer_of_floats_has_no_input_quantizer() -> None:
    graph = single(Linear(layer="fc"), coded("fc", (2, 3), quantized=False), (3,))
    with pytest.raises(TypeError, match="fc has no input quantizer"):
        graph.input_quantizer("fc")
