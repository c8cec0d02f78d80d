"""A network of one quantized layer, and what its export computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from apot_export.encoding.capture import capture
from apot_export.network.oracle import quantize_activation
from apot_export.original.quantization import Quantization
from apot_export.original.quantized_layers import QuantConv2d

Floats = NDArray[np.float32]


class Small(nn.Module):
    """A quantized convolution of what a ReLU and a dropout leave of the image."""

    def __init__(self, kind: Quantization, *, relu: bool = True) -> None:
        super().__init__()
        self.relu = nn.ReLU() if relu else nn.Identity()
        self.dropout = nn.Dropout()
        self.conv = QuantConv2d(1, 2, 1, bias=False, quantization=kind)
        self.conv.act_alpha.data.fill_(1.7)
        self.eval()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.conv(self.dropout(self.relu(image)))
        return result


def exported_values(module: Small, images: Floats, levels: Floats) -> dict[str, Any]:
    """Return what a right export computes, from levels of the convolution's input."""
    quantizer = capture(module, (1, *images.shape[2:])).layers["conv"].activation
    assert quantizer is not None
    quantized = torch.from_numpy(levels * np.float32(quantizer.step))
    weight = module.conv.quantized_weight()
    logits = nn.functional.conv2d(quantized, weight).detach().numpy()
    rectified = np.maximum(images, 0) if isinstance(module.relu, nn.ReLU) else images
    return {"relu": rectified, "conv.levels": levels, "logits": logits}


def oracle_levels(module: Small, images: Floats) -> Floats:
    quantizer = capture(module, (1, *images.shape[2:])).layers["conv"].activation
    assert quantizer is not None
    return quantize_activation(images, quantizer).astype(np.float32)
