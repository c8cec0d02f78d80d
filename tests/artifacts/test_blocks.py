"""Models that compute large batches a few images at a time."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from apot_export.artifacts.onnx_model import blocks
from apot_export.artifacts.onnx_model.blocks import (
    images_at_once,
    in_blocks,
    model_file,
    without_blocks,
)
from apot_export.artifacts.onnx_model.lowering import CPU, TARGETS
from apot_export.artifacts.onnx_model.probe import parse_model
from apot_export.errors import ExportError
from apot_export.network import CodedNetwork, Flatten, GlobalAveragePool, Node, Relu
from apot_export.runtimes.onnx_runtime import open_session
from apot_export.verification.proof.batches import mixing_nodes
from tests.support.networks import every_operation, random_images
from tests.support.onnx_values import model_of
from tests.support.random_coded_networks import random_network


def of_shape(channels: int, size: int, *, pooled: bool = True) -> CodedNetwork:
    """Return a network of one ReLU, and of the average over its image where the output is that."""
    shape = (channels, size, size)
    pool = Node(name="pool", operation=GlobalAveragePool(), inputs=("relu",))
    flat = Node(name="flat", operation=Flatten(), inputs=("pool",))
    relu = Node(name="relu", operation=Relu(), inputs=("x",))
    network = every_operation()
    return dataclasses.replace(
        network,
        input="x",
        input_shape=shape,
        nodes=(relu, *[pool, flat] * pooled),
        layers={},
        output="flat" if pooled else "relu",
    )


@pytest.mark.parametrize("network", [every_operation(), random_network(2), random_network(5)])
def test_every_block_is_computed_as_a_batch_of_its_own(network: CodedNetwork) -> None:
    model = model_of(network, CPU)
    for at_once in (1, 2, 4):
        looped = in_blocks(model, at_once)
        onnx.checker.check_model(looped)
        session = open_session(looped.SerializeToString(), "cpu")
        whole = open_session(model.SerializeToString(), "cpu")
        for count in (1, 3, 4):
            images = random_images(network, count)
            parts = [images[n : n + at_once] for n in range(0, count, at_once)]
            expected = np.concatenate([whole.run(part) for part in parts])
            # The runtime packs the last layer's float weights in another way within a loop.
            np.testing.assert_allclose(session.run(images), expected, rtol=1e-6)


def test_a_model_in_blocks_is_looked_into_as_the_model() -> None:
    network = every_operation()
    model = model_of(network, CPU)
    found = parse_model(in_blocks(model, 2).SerializeToString())
    assert not mixing_nodes(found)
    key = onnx.NodeProto.SerializeToString
    assert sorted(map(key, found.graph.node)) == sorted(map(key, model.graph.node))
    assert {v.name for v in found.graph.value_info} == {v.name for v in model.graph.value_info}
    assert list(found.graph.initializer) == list(model.graph.initializer)
    assert in_blocks(found, 2) == in_blocks(model, 2)
    assert without_blocks(model) is model


@pytest.mark.parametrize("change", ["step", "order", "cut", "node"])
def test_no_other_loop_is_taken_away(change: str) -> None:
    looped = in_blocks(model_of(every_operation(), CPU), 2)
    (loop,) = [node for node in looped.graph.node if node.op_type == "Loop"]
    body = loop.attribute[0].g
    if change == "step":
        (size,) = [t for t in looped.graph.initializer if t.name == "blocks/rounding"]
        size.CopyFrom(numpy_helper.from_array(np.array([3]), size.name))
    elif change == "order":
        joined = next(node for node in body.node if node.op_type == "Concat")
        joined.input[:] = reversed(joined.input)
    elif change == "cut":
        next(node for node in body.node if node.name.startswith("blocks/")).op_type = "Add"
    else:
        body.node.add(op_type="Identity", input=["blocks/images"], output=["more"])
    assert without_blocks(looped) is looped
    assert any("branches" in says for says in mixing_nodes(without_blocks(looped)))


@pytest.mark.parametrize("images", [[], [-2], [0]])
def test_numbers_of_images_that_are_none_are_refused_or_left(images: list[int]) -> None:
    looped = in_blocks(model_of(every_operation(), CPU), 2)
    for name, numbers in (("images_at_once", images), ("rounding", [n - 1 for n in images])):
        (tensor,) = [t for t in looped.graph.initializer if t.name == f"blocks/{name}"]
        tensor.CopyFrom(numpy_helper.from_array(np.array(numbers, dtype=np.int64), tensor.name))
    data = looped.SerializeToString()
    if images:
        assert parse_model(data) == looped
    else:
        with pytest.raises(ExportError, match="cannot be parsed"):
            parse_model(data)


def test_images_at_once_follow_from_the_largest_value() -> None:
    assert images_at_once(of_shape(64, 112), CPU) == 2
    assert images_at_once(of_shape(64, 448), CPU) == 1
    assert images_at_once(of_shape(16, 32), CPU) == 0
    assert images_at_once(of_shape(64, 112, pooled=False), CPU) == 0
    assert not any(images_at_once(of_shape(64, 112), other) for other in TARGETS if other != CPU)


def test_target_cpu_gains_where_images_are_large_and_products_are_of_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not blocks.gains_on_cpus(of_shape(64, 112))
    assert not blocks.gains_on_cpus(random_network(1))
    monkeypatch.setattr(blocks, "_NUMBERS", 1000)
    gains = {seed: blocks.gains_on_cpus(random_network(seed)) for seed in range(12)}
    assert set(gains.values()) == {False, True}, gains


@pytest.mark.parametrize(("numbers", "loops"), [(1 << 30, 0), (1000, 1)])
def test_files_have_the_loop_where_images_are_large(
    numbers: int, loops: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "_NUMBERS", numbers)
    network = every_operation()
    content = model_file(model_of(network, CPU), network, CPU)
    nodes = onnx.load_from_string(content).graph.node
    assert sum(node.op_type == "Loop" for node in nodes) == loops
    assert model_of(network, CPU).graph.node[-1] in parse_model(content).graph.node
