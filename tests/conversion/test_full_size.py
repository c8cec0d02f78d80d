"""Networks as deep as people train, narrow, on small images: their exports are the networks."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

import apot_export
from apot_export.artifacts.directory import ONNX_MODEL
from apot_export.artifacts.packed import load_packed
from apot_export.original.choices import Choices
from apot_export.original.custom import original_of_module
from apot_export.verification.proof.proofs import prove_export
from tests.support.full_size import Averaged, UNet, deeplab, quantized

SHAPE = (3, 32, 32)
SMALL = {
    "MobileNetV2": lambda: quantized(Averaged(width=0.35)),
    "U-Net": lambda: quantized(UNet(width=8), floats=("outc",)),
    "DeepLabV3": lambda: quantized(deeplab(width=0.35), floats=("classifier.4",)),
}


@pytest.mark.parametrize("name", SMALL)
def test_a_network_of_full_size_is_proven(name: str, tmp_path: Path) -> None:
    torch.manual_seed(7)
    network: nn.Module = SMALL[name]()
    result = apot_export.convert(network, tmp_path / "export", input_shape=SHAPE)
    images = torch.randn((1, *SHAPE), generator=torch.Generator().manual_seed(5)).numpy()
    original = original_of_module(network, SHAPE, Choices())
    model, packed = onnx.load(result.path / ONNX_MODEL), load_packed(result.path)
    proofs = prove_export(original.module, model, packed.network, images, "cpu")
    assert proofs.failures == ()
    assert proofs.levels.compared
    assert proofs.levels.unexplained == 0
