"""Which layers are tuned together, and what there is to choose for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apot_export.artifacts.onnx_model.targets import LOWERINGS, TARGETS
from apot_export.artifacts.packed import load_packed
from apot_export.conversion.convert import convert
from apot_export.errors import DeviceError
from apot_export.network import CodedNetwork, Convolution, Flatten, Linear, QuantizeActivation
from apot_export.network.codebook import apot
from apot_export.runtimes.deployment import RUNTIMES, require_place
from apot_export.tuning._groups import Plan, group_layers, lowerings_for, targets_for
from tests.support.networks import affine, coded, every_operation, network_of, quantizer
from tests.support.workshop import DIGITS

PLACES = [(runtime, device) for runtime, devices in RUNTIMES.items() for device in devices]


def chain(layers: dict[str, Any], image: tuple[int, int, int], **geometry: Any) -> CodedNetwork:
    """Return convolutions in a row, and a matrix after them."""
    graph: list[Any] = []
    previous = "image"
    for name, layer in layers.items():
        last = len(layer.shape) == 2
        if last:
            graph.append(("flat", Flatten(), previous))
            previous = "flat"
        operation = (
            Linear(layer=name) if last else Convolution(layer=name, **geometry.get(name, {}))
        )
        graph += [
            (f"{name}.levels", QuantizeActivation(layer=name), previous),
            (f"{name}.sums", operation, f"{name}.levels"),
            (name, affine(layer.shape[0], 0), f"{name}.sums"),
        ]
        previous = name
    return network_of(list(layers.values()), graph, image)


def test_every_place_has_lowerings_and_a_target_to_start_from() -> None:
    for place in PLACES:
        assert set(lowerings_for(*place)) <= set(LOWERINGS)
        assert set(targets_for(*place)) <= set(TARGETS) & set(lowerings_for(*place))
        assert len(targets_for(*place)) > 1


def test_layers_of_one_kind_are_one_group(project: Path, tmp_path: Path) -> None:
    net = load_packed(convert(project / DIGITS, tmp_path / "e").path).network
    groups = group_layers(net, ("cpu", "portable"))
    layers = [layer for group in groups for layer in group.layers]
    assert sorted(layers) == sorted(net.layers)
    assert [group.operations for group in groups] == sorted(
        (group.operations for group in groups), reverse=True
    )
    first = groups[0]
    assert first.layers == ("layer1.0.conv1", "layer1.0.conv2")
    assert first.kind == "3x3, 8 to 8, at 8x8"
    assert first.operations == 2 * 8 * 8 * 8 * 9 * 8
    assert first.candidates == ("cpu", "portable")
    by_name = {layer: group for group in groups for layer in group.layers}
    assert by_name["conv1"].candidates == ("cpu",)  # its input is float
    assert by_name["layer2.0.conv1"].kind == "3x3, 8 to 16, stride 2, at 4x4"
    assert by_name["fc"].kind == "matrix, 32 to 10"


@pytest.mark.parametrize("other", ["bits", "input bits", "stride", "padding", "image", "groups"])
def test_layers_that_differ_are_not(other: str) -> None:
    book, inputs = apot(4, signed=True), apot(4, signed=False)
    groups = 2 if other == "groups" else 1
    layers = {
        "a": coded("a", (8, 8, 3, 3), book, quantizer(inputs, 1.0), 0),
        "b": coded(
            "b",
            (8, 8 // groups, 3, 3),
            apot(3, signed=True) if other == "bits" else book,
            quantizer(apot(3, signed=False) if other == "input bits" else inputs, 1.0),
            1,
        ),
    }
    geometry: dict[str, Any] = {name: {"padding": (1, 1)} for name in layers}
    geometry["b"] |= {
        "bits": {},
        "input bits": {},
        "stride": {"stride": (2, 2)},
        "padding": {"padding": (2, 2)},
        "image": {},
        "groups": {"groups": 2},
    }[other]
    geometry["a"] |= {"padding": (0, 0)} if other == "image" else {}
    assert len(group_layers(chain(layers, (8, 9, 9), **geometry), ("cpu", "portable"))) == 2


def test_equal_layers_are_one_group_whatever_their_weights() -> None:
    book, inputs = apot(4, signed=True), apot(4, signed=False)
    layers = {
        n: coded(n, (8, 8, 3, 3), book, quantizer(inputs, 1.0), i) for i, n in enumerate("ab")
    }
    geometry: dict[str, Any] = {name: {"padding": (1, 1)} for name in layers}
    (group,) = group_layers(chain(layers, (8, 9, 9), **geometry), ("cpu", "portable"))
    assert group.layers == ("a", "b")


def test_a_proof_that_holds_for_one_layer_alone_parts_them() -> None:
    """The 8-bit kernels of OpenVINO need sums below 2^24: of these weights, not of those."""
    book, inputs = apot(5, signed=True), apot(5, signed=False)
    shape = (4608, 4608, 1, 1)
    large = np.full(shape, int(np.argmax(book.levels)), dtype=np.uint8)
    layers = {
        "small": coded("small", shape, book, quantizer(inputs, 1.0), large * 0),
        "large": coded("large", shape, book, quantizer(inputs, 1.0), large),
    }
    net = chain(layers, (4608, 1, 1))
    assert len(group_layers(net, ("cpu", "portable"))) == 1
    first, second = group_layers(net, ("openvino", "portable"))
    assert {first.layers, second.layers} == {("small",), ("large",)}


def test_every_kind_of_layer_has_a_name() -> None:
    groups = group_layers(every_operation(), ("cpu", "portable"))
    kinds = {layer: group.kind for group in groups for layer in group.layers}
    assert kinds["first"] == "3x3, 3 to 6, stride 1x2, at 7x7"
    assert kinds["grouped"] == "3x2, 6 to 9, 3 groups, dilation 2x1, at 4x7"
    assert kinds["linear"].startswith("matrix, ")
    assert set(kinds) == set(every_operation().layers)


def test_plans_forget_what_their_target_says_anyway() -> None:
    plan = Plan(target="cpu").changed(["a", "b"], "portable")
    assert plan.lowerings == {"a": "portable", "b": "portable"}
    assert (plan.of("a"), plan.of("c")) == ("portable", "cpu")
    assert plan.changed(["a"], "cpu").lowerings == {"b": "portable"}
    assert plan.changed(["a", "b"], "cpu") == Plan(target="cpu")


@pytest.mark.parametrize(
    "wrong",
    [
        ("tflite", "cpu", 1, 1),
        ("openvino", "cuda", 1, 1),
        ("onnxruntime", "npu", 1, 1),
        ("onnxruntime", "cpu", -1, 1),
        ("onnxruntime", "cpu", 1, 0),
    ],
)
def test_places_that_are_not(wrong: tuple[str, str, int, int]) -> None:
    with pytest.raises(DeviceError) as raised:
        require_place(*wrong)
    assert "openvino on cpu" in (raised.value.expected or "")
    assert wrong[0] in (raised.value.got or "")
