"""MobileNetV2 with torchvision's key names.

Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR
2018, table 2.
The training code of its APoT form was announced and never released.
"""

from __future__ import annotations

import torch
from torch import nn

from apot_export.original.architectures._protocol import Architecture, Shapes, convolution

_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, blocks and stride of the first block of every stage."""
_LAST_FEATURES = "features.18.0.weight"


def _unit(
    in_channels: int, channels: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    layer = convolution(in_channels, channels, kernel, stride=stride, groups=groups)
    return nn.Sequential(layer, nn.BatchNorm2d(channels), nn.ReLU6())


class InvertedResidual(nn.Module):
    """Expansion 1x1, depthwise 3x3, projection 1x1 without activation; a shortcut if it fits."""

    def __init__(self, in_channels: int, channels: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        layers: list[nn.Module] = [] if expansion == 1 else [_unit(in_channels, hidden, 1)]
        layers += [
            _unit(hidden, hidden, 3, stride=stride, groups=hidden),
            convolution(hidden, channels, 1),
            nn.BatchNorm2d(channels),
        ]
        self.conv = nn.Sequential(*layers)
        self.has_shortcut = stride == 1 and in_channels == channels

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map float32 [N, in, H, W] to [N, channels, H / stride, W / stride]."""
        features: torch.Tensor = self.conv(image)
        return image + features if self.has_shortcut else features


class MobileNetV2(nn.Module):
    """The network at width multiplier 1."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [_unit(3, 32, 3, stride=2)]
        in_channels = 32
        for expansion, channels, blocks, stride in _STAGES:
            for step in (stride, *[1] * (blocks - 1)):
                block = InvertedResidual(in_channels, channels, stride=step, expansion=expansion)
                layers.append(block)
                in_channels = channels
        layers.append(_unit(in_channels, 1280, 1))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map float32 [N, 3, 224, 224] to logits [N, classes]."""
        features = torch.flatten(self.pool(self.features(image)), 1)
        logits: torch.Tensor = self.classifier(features)
        return logits


def recognise(shapes: Shapes) -> Architecture | None:
    """Recognise MobileNetV2 at width multiplier 1, or return None."""
    last = shapes.get("classifier.1.weight", ())
    if shapes.get(_LAST_FEATURES) != (1280, 320, 1, 1) or len(last) != 2:  # noqa: PLR2004 - matrix
        return None
    return Architecture(
        name="MobileNetV2",
        input_shape=(3, 224, 224),
        first="features.0.0",
        last="classifier.1",
        build=lambda: MobileNetV2(last[0]),
        tree="ImageNet",
    )
