"""Quantized layers of other people's code in whole networks: what is taken for what, and proven."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import apot_export
from apot_export import downstream
from apot_export.artifacts.directory import PACKED_MODEL
from apot_export.artifacts.packed import load_packed
from apot_export.conversion.integer_choices import IntegerChoices
from apot_export.errors import ApotExportError, RecognitionError
from apot_export.network import CodedLayer, CodedNetwork
from apot_export.original.choices import Choices
from apot_export.original.custom import original_of_module
from apot_export.original.quantized_layers import QuantConv2d
from conformance.files import unseal
from tests.support.javascript import results
from tests.support.quantizer_forms import (
    ApotLinear,
    ChannelSteps,
    Channelwise,
    InputChannels,
    Logarithmic,
    Pact,
    Residual,
    Shared,
    Steps,
    StepsInParts,
    WeightsOnly,
    WeightsOnlyLinear,
)
from tests.support.training_codes import FirstConv, LastFC

SHAPE = (1, 8, 8)


def stem() -> nn.Module:
    return nn.Sequential(FirstConv(1, 8, 3, padding=1), nn.BatchNorm2d(8).eval())


def head(classes: int = 10) -> nn.Module:
    pool = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(pool, LastFC(8, classes))


def network(*steps: nn.Module) -> nn.Module:
    torch.manual_seed(11)
    return nn.Sequential(stem(), *steps).eval()


def steps() -> nn.Module:
    """Return a network of learned steps, whose classifier is quantized, too."""
    last = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), ApotLinear(8, 10))
    return network(nn.ReLU(), Steps(8, 8, 3), nn.ReLU(), StepsInParts(8, 8, 3), last)


def behind_quantizers() -> nn.Module:
    return network(nn.ReLU(), Pact(), WeightsOnly(8, 8, 3), nn.ReLU(), Shared(), head())


def by_channel() -> nn.Module:
    """Return a network whose weights have thresholds or steps by output channel."""
    last = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), Pact(alpha=0.4))
    return network(nn.ReLU(), Channelwise(8, 8, 3), last, ChannelSteps(8, 10))


def weights_alone() -> nn.Module:
    last = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return network(nn.ReLU(), WeightsOnly(8, 8, 3), last, WeightsOnlyLinear(8, 10))


def exported(made: nn.Module, folder: Path, **options: Any) -> CodedNetwork:
    path = apot_export.convert(made, folder / "export", input_shape=SHAPE, **options).path
    return load_packed(path).network


def test_weights_are_those_of_the_users_code(tmp_path: Path) -> None:
    made: Any = steps()
    layers = exported(made, tmp_path).layers
    for name, step, lowest in (("2", made[2].step_size_w, -8), ("4", made[4].quan_w_fn.s, -4)):
        layer = layers[name]
        weight = made.get_submodule(name).weight
        with torch.no_grad():
            expected = (weight / step).clamp(lowest, -lowest - 1).round() * step
        assert isinstance(layer, CodedLayer)
        assert layer.activation is not None
        assert layer.codebook.bits == {-8: 4, -4: 3}[lowest]
        np.testing.assert_array_equal(layer.weights(), expected.numpy() + 0.0)
        assert layer.levels().min() >= lowest


@pytest.mark.parametrize("make", [steps, behind_quantizers, by_channel, weights_alone])
def test_every_side_computes_what_the_users_code_does(make: Any, tmp_path: Path) -> None:
    made = make()
    integer = IntegerChoices()
    export = apot_export.convert(made, tmp_path / "export", input_shape=SHAPE, integer=integer)
    report = apot_export.verify(
        export.path,
        original=made,
        dataset="digits",
        limit=24,
        device="cpu",
        sides="ort,openvino,oracle,packed,native",
        backends="numpy,ort-cpu,c",
    )
    assert not report.failures
    assert report.weights.exact == report.weights.layers
    assert report.levels.unexplained == 0
    assert bool(report.levels.compared) == (make is not weights_alone)


def test_thresholds_by_channel_decode_to_the_users_weights(tmp_path: Path) -> None:
    made: Any = by_channel()
    path = apot_export.convert(made, tmp_path / "export", input_shape=SHAPE).path
    with torch.no_grad():
        expected = {
            "2": made[2].quantized_weight().numpy(),
            "4": made[4].quantized_weight().numpy() + 0.0,
        }
    packed, second = load_packed(path), downstream.load(path / PACKED_MODEL)
    header, _ = unseal((path / PACKED_MODEL).read_bytes())
    assert header["__metadata__"]["format_version"] == "3"
    (third,) = results([path / PACKED_MODEL])
    for name, weights in expected.items():
        np.testing.assert_allclose(packed.layers[name].weights(), weights, rtol=2e-7)
        np.testing.assert_array_equal(second.weights(name), packed.layers[name].weights())
        read = base64.b64decode(dict(third["found"])[name]["weights"])
        assert read == packed.layers[name].weights().tobytes()
    np.testing.assert_array_equal(packed.layers["4"].weights(), expected["4"])
    again = apot_export.convert_export(path, tmp_path / "again", target="plain").path
    assert (again / PACKED_MODEL).read_bytes() == (path / PACKED_MODEL).read_bytes()


def test_inputs_have_one_threshold() -> None:
    with pytest.raises(RecognitionError, match="differ by channel") as caught:
        original_of_module(network(nn.ReLU(), InputChannels(8, 8, 3), head()), SHAPE, Choices())
    assert caught.value.where == "2.act_alpha"


def test_quantizers_in_modules_become_those_of_the_layers_that_read_them(tmp_path: Path) -> None:
    made: Any = behind_quantizers()
    layers = exported(made, tmp_path).layers
    assert {"3", "5.left", "5.right"} < layers.keys()
    assert not {"2", "5.quantize"} & layers.keys()  # nothing else reads what they make
    for name in ("3", "5.left", "5.right"):
        quantizer = layers[name].activation
        assert quantizer is not None
        assert float(quantizer.alpha) == pytest.approx(1.3)
        assert quantizer.codebook.bits == 4


def test_quantizers_that_others_read_stay_as_layers_of_ones() -> None:
    made = network(Residual())
    original = original_of_module(made, SHAPE, Choices())
    kept = original.module.get_submodule("1.act1")
    assert isinstance(kept, QuantConv2d)
    assert kept.groups == 8
    assert bool((kept.quantized_weight() == 1).all())
    assert isinstance(original.module.get_submodule("1.act2"), nn.Identity)
    assert original.plan.layers["1.conv1"].activation_bits == 4
    assert original.plan.layers["1.fc"].activation_bits == 32  # it reads averages


def test_a_hook_on_a_quantizer_is_not_lost(tmp_path: Path) -> None:
    made: Any = behind_quantizers()
    made[2].register_forward_hook(lambda _module, _inputs, output: output * 1.1)
    with pytest.raises(ApotExportError, match="forward hook"):
        exported(made, tmp_path)


class Odd(Pact):
    """A quantizer of levels that nobody knows."""

    def forward(self, values: Tensor) -> Tensor:
        return super().forward(values).square()


class Scale(nn.Module):
    """A number that quantizes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(0.7))

    def forward(self, values: Tensor) -> Tensor:
        return values * 0.7


def test_a_refusal_names_the_closest_formula_and_its_difference() -> None:
    for part, name in ((Odd(), "2 (Odd)"), (Logarithmic(8, 8, 3), "2 (Logarithmic)")):
        with pytest.raises(RecognitionError) as caught:
            original_of_module(network(nn.ReLU(), part, head()), SHAPE, Choices())
        assert caught.value.where == name
        assert "the closest of" in str(caught.value.expected)
        assert "differ by up to" in str(caught.value.got)


def test_numbers_that_quantize_nothing_are_left_alone(tmp_path: Path) -> None:
    layers = exported(network(nn.ReLU(), Scale(), WeightsOnly(8, 8, 3), head()), tmp_path).layers
    assert layers["3"].activation is None


def test_a_state_dict_of_such_a_network_converts_and_verifies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = steps()
    for parameter in made.parameters():
        parameter.data *= 1.25
    torch.save({"model": made.state_dict()}, tmp_path / "net.pth")
    result = apot_export.convert(
        tmp_path / "net.pth", tmp_path / "export", model=f"{__name__}:steps", input_shape="1,8,8"
    )
    report = apot_export.verify(
        result.path,
        checkpoint=tmp_path / "net.pth",
        model=f"{__name__}:steps",
        dataset="digits",
        limit=16,
    )
    assert not report.failures
