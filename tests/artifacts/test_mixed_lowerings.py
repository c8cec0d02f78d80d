"""Layers of one model, each lowered for another target: the oracle's integers all the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apot_export.artifacts.onnx_model import serialise
from apot_export.artifacts.onnx_model.bodies_cpu import CHANNELS_LAST, PATCHES
from apot_export.artifacts.onnx_model.bodies_openvino import BYTES, EIGHT_BITS, GATHER
from apot_export.artifacts.onnx_model.lowering import layer_of_nodes
from apot_export.artifacts.onnx_model.targets import CPU, CUDA, LOWERINGS, OPENVINO, PORTABLE
from apot_export.encoding.capture import capture
from apot_export.encoding.encode import encode_network
from apot_export.errors import TargetError
from apot_export.network import (
    Add,
    CodedNetwork,
    Convolution,
    MaxPool,
    Operation,
    QuantizeActivation,
    Relu,
)
from apot_export.network.codebook import apot, uniform
from apot_export.original.choices import Choices
from apot_export.original.published import load_original
from tests.support.networks import (
    affine,
    coded,
    every_operation,
    network_of,
    quantizer,
    random_images,
)
from tests.support.onnx_values import assert_every_value_is_the_oracles, model_of, overloads
from tests.support.workshop import DIGITS

NAMES = "abcd"


def residual() -> CodedNetwork:
    """Return convolutions around a residual stream, one quantizer read by two of them."""
    book, inputs = apot(3, signed=True), apot(4, signed=False)
    layers = [
        coded(n, (8, 8, 3, 3), book, quantizer(inputs, 1.0), seed) for seed, n in enumerate(NAMES)
    ]
    layers.append(coded("e", (8, 8, 1, 1), uniform(4, signed=True), quantizer(inputs, 1.0), 9))
    graph: list[tuple[str, Operation, str]] = [
        ("pool", MaxPool(kernel=(2, 2), stride=(1, 1)), "image")
    ]
    stream = "pool"
    for seed, n in enumerate(NAMES):
        graph += [
            (f"{n}.levels", QuantizeActivation(layer=n), stream),
            (f"{n}.sums", Convolution(layer=n, padding=(1, 1)), f"{n}.levels"),
            (f"{n}.scaled", affine(8, seed), f"{n}.sums"),
            (f"{n}.added", Add(), f"{n}.scaled {stream}"),
            (n, Relu(), f"{n}.added"),
        ]
        stream = n
    graph += [
        ("e.sums", Convolution(layer="e"), "d.levels"),
        ("e.scaled", affine(8, 7), "e.sums"),
        ("end", Add(), "e.scaled d"),
    ]
    return network_of(list(layers), graph, (8, 7, 7))


@settings(max_examples=40)
@given(
    target=st.sampled_from(LOWERINGS),
    chosen=st.fixed_dictionaries({name: st.sampled_from(LOWERINGS) for name in (*NAMES, "e")}),
)
def test_random_mixtures_around_a_residual_stream(target: str, chosen: dict[str, str]) -> None:
    net = residual()
    images = random_images(net, 2)
    assert assert_every_value_is_the_oracles(net, target, images, chosen) > 0


@settings(max_examples=40)
@given(data=st.data())
def test_random_mixtures_of_every_operation(data: st.DataObject) -> None:
    net = every_operation()
    lowering = st.sampled_from(LOWERINGS)
    chosen = data.draw(st.dictionaries(st.sampled_from(sorted(net.layers)), lowering))
    target = data.draw(lowering)
    assert assert_every_value_is_the_oracles(net, target, random_images(net, 2), chosen) > 0


@pytest.mark.parametrize("seed", range(6))
def test_random_mixtures_of_a_trained_network(seed: int, project: Path) -> None:
    original = load_original(project / DIGITS, Choices(bits=4))
    net = encode_network(
        capture(original.module, original.architecture.input_shape, original.multi_bit)
    )
    rng = np.random.default_rng(seed)
    chosen = {layer: str(rng.choice(LOWERINGS)) for layer in net.layers}
    images = random_images(net, 2)
    assert assert_every_value_is_the_oracles(net, CPU, images, chosen) > 1000


# --- which body -----------------------------------------------------------------------------------


def test_a_layer_is_its_quantizer_its_sums_and_their_scale() -> None:
    owners = layer_of_nodes(residual())
    assert {node for node, layer in owners.items() if layer == "b"} == {
        "b.levels",
        "b.sums",
        "b.scaled",
    }
    assert "b.added" not in owners
    assert owners["d.levels"] == "d"
    assert owners["e.sums"] == "e"


def test_only_the_named_layers_change() -> None:
    net = residual()
    found = overloads(model_of(net, CPU, {"b": OPENVINO, "c": PORTABLE}))
    plain = overloads(model_of(net, CPU))
    assert found["b.levels"] == GATHER + BYTES
    assert found["b.sums"] == EIGHT_BITS
    assert found["a.sums"] == PATCHES
    assert found["a.levels"] == found["a.scaled"] == CHANNELS_LAST
    portable = overloads(model_of(net, PORTABLE))
    assert all(found[f"c.{part}"] == portable[f"c.{part}"] for part in ("levels", "sums", "scaled"))
    own = {node for node in found if node.startswith(("b.", "c."))}
    assert {n: o for n, o in found.items() if n not in own} == {
        n: o for n, o in plain.items() if n not in own
    }


def test_a_mixture_of_one_is_that_target() -> None:
    net = residual()
    every = dict.fromkeys(net.layers, CPU)
    assert serialise(model_of(net, CPU, every)) == serialise(model_of(net, CPU))
    mixed = overloads(model_of(net, PORTABLE, every))
    assert mixed == overloads(model_of(net, CPU))


def facts_of(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def test_the_model_names_its_mixture() -> None:
    facts = facts_of(model_of(residual(), CPU, {"b": PORTABLE, "a": CPU}))
    assert facts["target"] == CPU
    assert json.loads(facts["lowerings"]) == {"b": PORTABLE}
    assert "lowerings" not in facts_of(model_of(residual(), CPU))


def test_tf32_is_for_unmixed_models() -> None:
    net = residual()
    assert facts_of(model_of(net, CUDA))["tf32_exact"] == "true"
    assert facts_of(model_of(net, CUDA, {"b": CPU}))["tf32_exact"] == "false"


@pytest.mark.parametrize("lowerings", [{"nowhere": CPU}, {"a": "npu"}])
def test_unknown_layers_and_lowerings_are_refused(lowerings: dict[str, str]) -> None:
    with pytest.raises(TargetError) as raised:
        model_of(residual(), CPU, lowerings)
    assert raised.value.where in lowerings
    assert raised.value.got in lowerings.values()
