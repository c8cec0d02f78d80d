"""Every depth of the CIFAR family: recognised from keys and shapes, exact weights, right levels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from apot_export import architectures
from apot_export.architectures.cifar_resnet import CifarResNet
from apot_export.conversion import convert
from apot_export.errors import RecognitionError
from apot_export.export_directory import ONNX_MODEL
from apot_export.original import load_original
from apot_export.packfile import load_packed
from apot_export.quantization import Quantization
from apot_export.runtime import open_session
from apot_export.torch_layers import LayerFactory, QuantConv2d
from apot_export.verification._certificate import original_weights
from apot_export.verification._instrument import parse_model, with_outputs
from apot_export.verification._levels import compare_levels

DEPTHS = (20, 32, 44, 56, 110)


def write_checkpoint(path: Path, depth: int, images: torch.Tensor) -> None:
    """Write a random network of the published format, its batch-norm calibrated on images."""
    kind = Quantization(family="apot-v1", weight_bits=3, activation_bits=3)
    factory = LayerFactory(quantization=kind)
    torch.manual_seed(depth)
    network = CifarResNet(factory, blocks=(depth - 2) // 6, width=16, image=(3, 32, 32), classes=10)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
        if isinstance(layer, QuantConv2d):
            nn.init.uniform_(layer.weight_alpha, 1, 2)
            nn.init.uniform_(layer.act_alpha, 1, 2)
    with torch.no_grad():
        network.train()(images)
    state = {
        "module." + key.replace(".weight_alpha", ".weight_quant.wgt_alpha"): value
        for key, value in network.state_dict().items()
    }
    torch.save({"epoch": 1, "state_dict": state}, path)


@pytest.mark.parametrize("depth", DEPTHS)
def test_every_depth_converts_exactly(depth: int, tmp_path: Path) -> None:
    checkpoint = tmp_path / f"res{depth}_3bit.pth.tar"
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    write_checkpoint(checkpoint, depth, images)
    result = convert(checkpoint, tmp_path / "export")
    assert result.architecture == f"ResNet-{depth} (CIFAR)"
    original = load_original(checkpoint)
    layers = load_packed(result.path).layers
    for name, weights in original_weights(original.module).items():
        assert layers[name].weights().tobytes() == weights.tobytes(), name
    model = parse_model((result.path / ONNX_MODEL).read_bytes())
    sample = images[:2].numpy()
    exported = open_session(with_outputs(model), "cpu").run_all(sample)
    found = compare_levels(original.module, sample, exported)
    assert found.compared > 0
    assert (found.unexplained, found.values_outside) == (0, 0), found.offenders


def test_block_numbers_beyond_the_tensors_of_a_file_describe_no_network() -> None:
    shapes = {
        "conv1.weight": (16, 3, 3, 3),
        "fc.weight": (10, 64),
        **{f"layer{stage}.9999.conv1.weight": (16, 16, 3, 3) for stage in (1, 2, 3)},
    }
    with pytest.raises(RecognitionError, match="no known architecture"):
        architectures.recognise(shapes)
