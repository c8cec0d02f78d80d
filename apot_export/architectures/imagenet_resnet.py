"""The four-stage ResNets of basic blocks for 224 x 224 images.

Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, table 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from apot_export.architectures._blocks import Shapes, has_bottlenecks, stage, stage_blocks
from apot_export.torch_layers import LayerFactory

_IMAGE = (3, 224, 224)
_DEPTHS = {(2, 2, 2, 2): 18, (3, 4, 6, 3): 34}
_FIRST_CONVOLUTION = (64, 3, 7, 7)


class ImageNetResNet(nn.Module):
    """A 7x7 convolution, a max-pool, four stages and a linear layer."""

    def __init__(self, factory: LayerFactory, *, blocks: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.conv1 = factory.first_convolution(3, 64, 7, stride=2)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = stage(factory, 64, 64, blocks[0], stride=1)
        self.layer2 = stage(factory, 64, 128, blocks[1], stride=2)
        self.layer3 = stage(factory, 128, 256, blocks[2], stride=2)
        self.layer4 = stage(factory, 256, 512, blocks[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = factory.last_linear(512, classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map float32 [N, 3, 224, 224] to logits [N, classes]."""
        features = self.maxpool(self.relu(self.bn1(self.conv1(image))))
        features = self.layer4(self.layer3(self.layer2(self.layer1(features))))
        logits: torch.Tensor = self.fc(torch.flatten(self.avgpool(features), 1))
        return logits


def recognise(
    shapes: Shapes,
) -> tuple[str, tuple[int, int, int], Callable[[LayerFactory], nn.Module]] | None:
    """Recognise an ImageNet ResNet: (name, input shape, constructor), or None."""
    blocks = tuple(stage_blocks(shapes))
    if blocks not in _DEPTHS or has_bottlenecks(shapes):
        return None
    last = shapes.get("fc.weight", ())
    if shapes.get("conv1.weight") != _FIRST_CONVOLUTION or len(last) != 2:  # noqa: PLR2004 - a matrix
        return None

    def build(factory: LayerFactory) -> nn.Module:
        return ImageNetResNet(factory, blocks=blocks, classes=last[0])

    return f"ResNet-{_DEPTHS[blocks]} (ImageNet)", _IMAGE, build
