"""Layers of other codes against their formula: what differs is named, what is noise is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

import apot_export
from apot_export.artifacts.packed import load_packed
from apot_export.errors import BitWidthError, RecognitionError
from apot_export.original.choices import Choices
from apot_export.original.custom import original_of_module
from apot_export.original.parts import stated_parts
from apot_export.original.quantization import Quantization, Stated
from apot_export.original.quantized_layers import FirstConv2d, LastLinear, QuantConv2d

SHAPE = (1, 8, 8)


class Forked(nn.Conv2d):
    """A first layer whose code rounds to another grid."""

    layer_type = "FConv2d"

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        largest = self.weight.abs().max()
        weight = (self.weight / largest * 127).round() / 127 * largest
        return functional.conv2d(image, weight)


class Strange(nn.Conv2d):
    """A layer of which nothing is known."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(image, self.weight.sign())


@pytest.mark.parametrize("layer", [Forked, Strange])
def test_layers_with_another_formula_are_named(layer: Callable[..., nn.Conv2d]) -> None:
    torch.manual_seed(0)
    conv = layer(1, 4, 3, bias=False)
    conv.weight.data[0, 0, 0, 0] = -2.0
    network = nn.Sequential(nn.ReLU(), conv)
    with pytest.raises(RecognitionError) as caught:
        original_of_module(network, SHAPE, Choices())
    assert (caught.value.where or "").startswith("1")


class Noisy(nn.Conv2d):
    """A second-family layer whose float operations come in another order."""

    def __init__(self, *, bit: int) -> None:
        super().__init__(8, 8, 3)
        self.bit, self.power = bit, False
        self.weight_alpha = nn.Parameter(torch.tensor(2.1))
        self.act_alpha = nn.Parameter(torch.tensor(1.7))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        steps = 2 ** (self.bit - 1) - 1
        scale = steps / (self.weight.double().std() * self.weight_alpha)
        weight = ((self.weight.double() - self.weight.double().mean()) * scale).float()
        weight = weight.clamp(-steps, steps).round() * (self.weight_alpha / steps)
        levels = (image * ((2**self.bit - 1) / self.act_alpha)).clamp(0, 2**self.bit - 1).round()
        return functional.conv2d(levels, weight * (self.act_alpha / (2**self.bit - 1)), self.bias)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_float_noise_that_moves_levels_is_no_other_formula(bits: int) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), Noisy(bit=bits))
    original = original_of_module(network, (3, 48, 48), Choices())
    assert original.quantization == Quantization(
        family="apot-v2", weight_bits=bits, activation_bits=bits, method="uniform"
    )


def test_the_old_divisor_of_uniform_activations_is_found_by_what_the_layer_computes() -> None:
    class Old(Noisy):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            layer = QuantConv2d(
                8,
                8,
                3,
                quantization=Quantization(
                    family="apot-v2",
                    weight_bits=self.bit,
                    activation_bits=self.bit,
                    method="uniform",
                    legacy_divisor=True,
                ),
            )
            layer.load_state_dict(self.state_dict())
            output: torch.Tensor = layer(image)
            return output

    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), Old(bit=4))
    for choices in (Choices(), Choices(legacy_divisor=True)):
        (layer,) = original_of_module(network, (3, 16, 16), choices).plan.layers.values()
        assert (layer.method, layer.legacy_divisor) == ("uniform", True)


def test_a_layer_under_two_names_is_one_layer(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(4)
            self.stem = nn.Conv2d(1, 8, 3)
            self.first = Noisy(bit=4)
            self.second = self.first
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.head = nn.Linear(8, 10)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            features = self.second(self.first(self.stem(image)).relu()).relu()
            logits: torch.Tensor = self.head(self.pool(features).flatten(1))
            return logits

    network = Twice()
    export = apot_export.convert(network, tmp_path / "export", input_shape=(1, 8, 8)).path
    assert list(load_packed(export).layers) == ["stem", "first", "head"]
    report = apot_export.verify(export, original=network, dataset="digits", limit=32)
    assert not report.failures


def test_first_and_last_layers_of_a_custom_network_are_rounded_on_request() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    found = original_of_module(network, SHAPE, Choices())
    assert found.plan.first_last == Stated("float", "network")
    rounded = original_of_module(network, SHAPE, Choices(first_last="8bit"))
    assert rounded.plan.first_last == Stated("8bit", "option")
    assert isinstance(rounded.module.get_submodule("0"), FirstConv2d)
    assert isinstance(rounded.module.get_submodule("3"), LastLinear)
    again = original_of_module(rounded.module, SHAPE, Choices())
    assert again.plan.first_last == Stated("8bit", "network")
    with pytest.raises(BitWidthError, match="has 8-bit weights"):
        original_of_module(rounded.module, SHAPE, Choices(first_last="float"))


def test_activations_of_a_custom_network_on_another_level_set() -> None:
    torch.manual_seed(0)
    kind = Quantization(
        family="apot-v2", weight_bits=4, activation_bits=4, activation_method="uniform"
    )
    network = nn.Sequential(nn.ReLU(), QuantConv2d(1, 4, 3, quantization=kind))
    original = original_of_module(network, SHAPE, Choices())
    assert original.quantization == kind
    parts = {part["what"]: (part["value"], part["source"]) for part in stated_parts(original)}
    assert parts["weight levels"] == ("apot", "network")
    assert parts["activation levels"] == ("uniform", "network")
    assert "assumption" not in {source for _, source in parts.values()}
