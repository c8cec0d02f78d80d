"""Capturing PyTorch modules: what is understood computes the same, anything else is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from apot_export.encoding.capture import capture
from apot_export.encoding.encode import encode_network
from apot_export.errors import CaptureError
from apot_export.network import Add, Flatten, Relu, SourceNetwork
from apot_export.network.oracle import run
from apot_export.original.quantization import Quantization
from apot_export.original.quantized_layers import FirstConv2d, LastLinear, QuantConv2d

SHAPE = (4, 8, 6)
Forward = Callable[[Any, torch.Tensor], Any]


class Block(nn.Module):
    """A network with one of every layer at hand, and whatever forward pass a test gives it."""

    def __init__(self, forward: Forward, *, in_place: bool = False) -> None:
        super().__init__()
        torch.manual_seed(3)
        kind = Quantization(family="apot-v2", weight_bits=4, activation_bits=4)
        self.first = FirstConv2d(4, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.plain_bn = nn.BatchNorm2d(6, affine=False)
        self.quantized = QuantConv2d(6, 6, 3, padding=1, quantization=kind)
        self.conv = nn.Conv2d(6, 6, (3, 1), stride=(1, 2), padding=(1, 0), groups=3, dilation=1)
        self.relu = nn.ReLU(inplace=in_place)
        self.dropout = nn.Dropout(0.9, inplace=True)
        self.identity = nn.Identity()
        self.max_pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.average_pool = nn.AvgPool2d((2, 1))
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = LastLinear(6, 5)
        self.scale = nn.Parameter(torch.ones(6, 1, 1))
        # No multiple of the input's steps, so that no sum falls on a decision point.
        self.quantized.weight_alpha.data.fill_(2.718)
        for norm in (self.bn, self.plain_bn):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
        self.behaviour = forward
        self.eval().requires_grad_(requires_grad=False)

    def forward(self, image: torch.Tensor) -> Any:
        return self.behaviour(self, image)


def operations(network: SourceNetwork) -> list[str]:
    return [type(node.operation).__name__ for node in network.nodes]


def assert_equivalent(module: nn.Module) -> SourceNetwork:
    """Capture a module, run the coded network and compare with PyTorch."""
    source = capture(module, SHAPE)
    images = torch.randn((3, *SHAPE), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = module(images.clone()).numpy()
    got = run(encode_network(source), images.numpy())
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    return source


def head(block: Any, features: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = block.fc(torch.flatten(block.mean(features), 1))
    return logits


# --- what is understood ---------------------------------------------------------------------------

RELUS: dict[str, Forward] = {
    "module": lambda block, x: block.relu(x),
    "torch.relu": lambda _, x: torch.relu(x),
    "functional.relu": lambda _, x: functional.relu(x),
    "functional.relu in place": lambda _, x: functional.relu(x, inplace=True),
    "method": lambda _, x: x.relu(),
    "method in place": lambda _, x: x.relu_(),
}
FLATTENS: dict[str, Forward] = {
    "module": lambda block, x: block.flatten(x),
    "torch.flatten": lambda _, x: torch.flatten(x, 1),
    "start_dim": lambda _, x: torch.flatten(x, start_dim=1),
    "end": lambda _, x: torch.flatten(x, 1, -1),
    "start_dim, end_dim": lambda _, x: torch.flatten(x, start_dim=1, end_dim=-1),
    "method": lambda _, x: x.flatten(1),
    "method, end": lambda _, x: x.flatten(1, end_dim=-1),
}


def in_place_sum(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    first += second
    return first


SUMS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "+": lambda first, second: first + second,
    "+=": in_place_sum,
    "torch.add": torch.add,
    "method": lambda first, second: first.add(second),
    "method in place": lambda first, second: first.add_(second),
}


@pytest.mark.parametrize("relu", RELUS.values(), ids=RELUS)
def test_relus(relu: Forward) -> None:
    source = assert_equivalent(Block(lambda b, x: head(b, relu(b, b.bn(b.first(x))))))
    assert operations(source).count("Relu") == 1


@pytest.mark.parametrize("flatten", FLATTENS.values(), ids=FLATTENS)
def test_flattens(flatten: Forward) -> None:
    source = assert_equivalent(Block(lambda b, x: b.fc(flatten(b, b.mean(b.first(x))))))
    assert isinstance(source.nodes[-2].operation, Flatten)


@pytest.mark.parametrize("add", SUMS.values(), ids=SUMS)
def test_residual_sums(add: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
    def forward(block: Any, image: torch.Tensor) -> torch.Tensor:
        trunk = block.relu(block.bn(block.first(image)))
        return head(block, block.relu(add(block.plain_bn(block.quantized(trunk)), trunk)))

    source = assert_equivalent(Block(forward))
    (position,) = (i for i, node in enumerate(source.nodes) if isinstance(node.operation, Add))
    assert source.nodes[position].inputs == ("plain_bn", "relu")
    assert isinstance(source.nodes[position + 1].operation, Relu)
    assert source.nodes[position + 1].name == "relu_2"


@pytest.mark.parametrize("in_place", [False, True])
def test_pools_groups_and_layers_that_do_nothing(in_place: bool) -> None:
    def forward(block: Any, image: torch.Tensor) -> torch.Tensor:
        features = block.identity(block.relu(block.first(image)))
        features = block.dropout(block.max_pool(features))
        features = block.average_pool(block.conv(block.dropout(features)))
        return head(block, features + features)

    source = assert_equivalent(Block(forward, in_place=in_place))
    assert operations(source) == [
        "Convolution", "Relu", "MaxPool", "Convolution", "AveragePool", "Add",
        "GlobalAveragePool", "Flatten", "Linear",
    ]  # fmt: skip
    assert list(source.layers) == ["first", "conv", "fc"]
    assert all(layer.bias is not None for layer in source.layers.values())


def test_a_layer_that_is_called_twice_has_two_values() -> None:
    def forward(block: Any, image: torch.Tensor) -> torch.Tensor:
        features = block.relu(block.first(image))
        return head(block, block.quantized(block.relu(block.quantized(features))))

    source = assert_equivalent(Block(forward))
    assert [node.name for node in source.nodes][2:5] == ["quantized", "relu_2", "quantized_2"]


def test_batch_norm_is_merged_only_where_nothing_else_reads_the_convolution() -> None:
    def shared(block: Any, image: torch.Tensor) -> torch.Tensor:
        sums = block.first(image)
        return head(block, block.bn(sums) + sums)

    alone = encode_network(assert_equivalent(Block(lambda b, x: head(b, b.bn(b.first(x))))))
    both = encode_network(assert_equivalent(Block(shared)))
    assert [node.name for node in alone.nodes][:2] == ["first.sums", "bn"]
    assert [node.name for node in both.nodes][:3] == ["first.sums", "first", "bn"]


SAME: dict[str, Forward] = {
    "functional pool": lambda b, x: head(b, functional.max_pool2d(b.first(x), 2)),
    "view": lambda b, x: b.fc(b.mean(b.first(x)).view(-1, 6)),
    "relu6": lambda b, x: head(b, functional.relu6(b.first(x))),
}


@pytest.mark.parametrize("forward", SAME.values(), ids=SAME)
def test_functions_that_say_what_layers_say(forward: Forward) -> None:
    assert_equivalent(Block(forward))


# --- what is refused ------------------------------------------------------------------------------

REFUSED: dict[str, Forward] = {
    "concatenation": lambda b, x: torch.cat([b.first(x), b.first(x)]),
    "functional dropout": lambda b, x: head(b, functional.dropout(b.first(x))),
    "flatten everything": lambda _, x: torch.flatten(x),
    "data-dependent control flow": lambda b, x: head(b, x if x.sum() > 0 else -x),
    "loop over a tensor": lambda _, x: sum(list(x)),
    "no tensor": lambda _, __: None,
    "keyword, function": lambda b, x: head(b, torch.relu(input=b.first(x))),
    "max-pool of no image": lambda b, x: functional.max_pool2d(b.first(x).flatten(1, 2), 2),
    "average of no image": lambda b, x: functional.adaptive_avg_pool2d(b.first(x).flatten(1, 2), 1),
    "padded pool of no image": lambda b, x: functional.avg_pool2d(
        b.first(x).flatten(1, 2), 2, padding=1
    ),
    "upsampling of no image": lambda b, x: functional.interpolate(
        b.first(x).flatten(1, 2), scale_factor=2
    ),
}


@pytest.mark.parametrize("forward", REFUSED.values(), ids=REFUSED)
def test_unknown_operations_are_refused(forward: Forward) -> None:
    with pytest.raises(CaptureError) as caught:
        capture(Block(forward), SHAPE)
    assert caught.value.where


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "transposed convolution": lambda: nn.ConvTranspose2d(4, 4, 3),
    "dilated max-pool": lambda: nn.MaxPool2d(2, dilation=2),
    "batch-norm without statistics": lambda: nn.BatchNorm2d(4, track_running_stats=False),
    "window larger than the image": lambda: nn.MaxPool2d(9),
    "wrong channels": lambda: nn.Conv2d(3, 4, 1),
}


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_layers_that_the_graph_cannot_say_are_refused(layer: Callable[[], nn.Module]) -> None:
    with pytest.raises(CaptureError) as caught:
        capture(nn.Sequential(layer()), SHAPE)
    assert caught.value.where == "0" or (caught.value.where or "").startswith("0.")


def test_a_diverged_batch_norm_is_refused() -> None:
    norm = nn.BatchNorm2d(4)
    assert norm.running_var is not None
    norm.running_var[2] = -1
    with pytest.raises(CaptureError, match="variance"):
        capture(nn.Sequential(norm), SHAPE)


def test_two_inputs_are_refused() -> None:
    class Two(nn.Module):
        def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
            return first + second

    with pytest.raises(CaptureError, match="more than one input"):
        capture(Two(), SHAPE)


OVERWRITING: dict[str, Forward] = {
    "module": lambda b, y: b.relu(y),
    "method": lambda _, y: y.relu_(),
    "function": lambda _, y: functional.relu(y, inplace=True),
    "sum": lambda b, y: y.add_(b.bn(y)),
}


@pytest.mark.parametrize("overwrite", OVERWRITING.values(), ids=OVERWRITING)
def test_values_that_were_overwritten_in_place_are_not_misread(overwrite: Forward) -> None:
    def forward(block: Any, image: torch.Tensor) -> torch.Tensor:
        features = block.first(image)
        return head(block, overwrite(block, features) + features)

    with pytest.raises(CaptureError, match="overwritten it in place"):
        capture(Block(forward, in_place=True), SHAPE)
