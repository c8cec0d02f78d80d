"""Small originals of every family, exports of them, and where an export first differs."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import parser
from torch import nn

from apot_export.artifacts.onnx_model import build_model
from apot_export.encoding.capture import capture
from apot_export.encoding.encode import encode_network
from apot_export.network import CodedLayer, CodedNetwork, ScaleBias
from apot_export.network.bitpack import pack
from apot_export.original.quantization import Quantization
from apot_export.original.quantized_layers import FirstConv2d, LastLinear, QuantConv2d
from apot_export.verification.diagnosis import CAUSES
from apot_export.verification.proof.proofs import prove_export
from apot_export.verification.report import Divergence

Floats = NDArray[np.float32]
Edit = Callable[[onnx.ModelProto], None]
SHAPE = (3, 6, 6)
MIDDLE = "middle"

QUANTIZATIONS = {
    "apot-v1": Quantization(family="apot-v1", weight_bits=4, activation_bits=4),
    "apot-v2": Quantization(family="apot-v2", weight_bits=3, activation_bits=3),
    "pot": Quantization(family="apot-v1", weight_bits=4, activation_bits=4, method="pot"),
    "uniform": Quantization(family="apot-v2", weight_bits=4, activation_bits=4, method="uniform"),
    "uniform-v1": Quantization(
        family="apot-v1", weight_bits=3, activation_bits=5, method="uniform"
    ),
    "nonzero": Quantization(family="nonzero", weight_bits=3, activation_bits=3),
    "nonzero-grid": Quantization(
        family="nonzero", weight_bits=2, activation_bits=2, grid="nonzero", z=2
    ),
}
UNIFORM = QUANTIZATIONS["uniform"]


class Small(nn.Module):
    """A first, a quantized and a last layer, batch-norms and a residual sum."""

    def __init__(self, quantization: Quantization | None, width: int = 8) -> None:
        super().__init__()
        options: dict[str, Any] = {"padding": 1, "bias": False}
        kinds = (nn.Conv2d, nn.Linear) if quantization is None else (FirstConv2d, LastLinear)
        self.first = kinds[0](SHAPE[0], width, 3, **options)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.middle: nn.Conv2d = nn.Conv2d(width, width, 3, **options)
        if quantization is not None:
            self.middle = QuantConv2d(width, width, 3, **options, quantization=quantization)
        self.bn2 = nn.BatchNorm2d(width)
        self.pool = nn.AvgPool2d(2)
        self.flatten = nn.Flatten()
        self.fc = kinds[1](width * 9, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        wide = self.relu(self.bn1(self.first(image)))
        wide = self.relu(self.bn2(self.middle(wide)) + wide)
        logits: torch.Tensor = self.fc(self.flatten(self.pool(wide)))
        return logits


def small(quantization: Quantization | None, seed: int = 0, width: int = 8) -> Any:
    """Return a small network with random weights and statistics."""
    torch.manual_seed(seed)
    network = Small(quantization, width).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.2, 0.8)
            module.weight.data.uniform_(1, 3)
        if isinstance(module, QuantConv2d):
            module.act_alpha.data.fill_(2.37)
            module.weight_alpha.data.fill_(2.61)
    return network.requires_grad_(requires_grad=False)


def requantized(network: Any, **changes: Any) -> Any:
    """Return a copy of a small network whose quantized layer is quantized otherwise."""
    other = copy.deepcopy(network)
    layer = other.middle
    layer.quantization = dataclasses.replace(layer.quantization, **changes)
    layer.reset_level_sets()
    return other


def coded(network: nn.Module, shape: tuple[int, ...] = SHAPE) -> CodedNetwork:
    channels, height, width = shape
    return encode_network(capture(network, (channels, height, width)))


def sample(count: int = 4, shape: tuple[int, ...] = SHAPE) -> Floats:
    return np.random.default_rng(5).normal(size=(count, *shape)).astype(np.float32)


def change_codes(
    network: CodedNetwork, name: str, change: Callable[[NDArray[Any]], NDArray[Any]]
) -> CodedNetwork:
    layer = network.layers[name]
    assert isinstance(layer, CodedLayer)
    codes: Any = np.ascontiguousarray(change(layer.codes)).astype(layer.codebook.code_dtype)
    assert codes.shape == layer.shape
    changed = dataclasses.replace(layer, stored=pack(codes, layer.codebook.bits))
    return dataclasses.replace(network, layers={**network.layers, name: changed})


def diverge(
    original: nn.Module,
    *,
    both: CodedNetwork | None = None,
    packed: CodedNetwork | None = None,
    model: CodedNetwork | None = None,
    edit: Edit | None = None,
    images: Floats | None = None,
) -> Divergence | None:
    """Return where an export differs: a right one but for what is given."""
    images = sample() if images is None else images
    right = coded(original, images.shape[1:])
    proto = build_model(model or both or right, name="x", tool="test 1", metadata={})
    if edit is not None:
        edit(proto)
    proofs = prove_export(original, proto, packed or both or right, images, "cpu")
    assert bool(proofs.failures) == (proofs.divergence is not None)
    return proofs.divergence


def scale_of(norm: Any) -> NDArray[np.float32]:
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return np.asarray(scale.numpy().reshape(-1, 1, 1, 1))


def found(divergence: Divergence | None) -> Divergence:
    assert divergence is not None
    return divergence


def assert_weights(
    divergence: Divergence | None,
    original: CodedNetwork,
    export: CodedNetwork,
    cause: str | None,
    layer: str = MIDDLE,
) -> str:
    """Hold a divergence to what was planted: layer, first place, channel, both values, cause."""
    divergence = found(divergence)
    right, wrong = (network.layers[layer].weights() for network in (original, export))
    place = tuple(np.argwhere(right.view(np.uint32) != wrong.view(np.uint32))[0])
    assert (divergence.layer, divergence.kind, divergence.place) == (layer, "weights", place)
    assert divergence.channel == place[0]
    assert (divergence.original, divergence.export) == (right[place], wrong[place])
    assert cause is None or cause in CAUSES
    assert divergence.cause == cause, divergence.evidence
    return divergence.evidence


def coded_levels(network: CodedNetwork, name: str = MIDDLE) -> NDArray[np.int32]:
    layer = network.layers[name]
    assert isinstance(layer, CodedLayer)
    return layer.levels()


def body(operator: str, old: str, new: str) -> Edit:
    """Edit the text of an operator's usual body."""

    def edit(model: onnx.ModelProto) -> None:
        (position,) = (place for place, item in enumerate(model.functions) if item.name == operator)
        text = onnx.printer.to_text(model.functions[position])
        assert text.count(old) == 1
        model.functions[position].CopyFrom(parser.parse_function(text.replace(old, new)))

    return edit


def coded_bias(network: Any) -> NDArray[np.floating]:
    (node,) = (node for node in coded(network).nodes if node.name == "bn2")
    assert isinstance(node.operation, ScaleBias)
    return node.operation.bias
