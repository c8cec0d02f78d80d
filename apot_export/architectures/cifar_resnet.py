"""The ResNets of 6n + 2 layers for small images, with projection shortcuts.

Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2; key names
as in the published APoT CIFAR-10 code.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from apot_export.architectures._blocks import Shapes, has_bottlenecks, stage, stage_blocks
from apot_export.torch_layers import LayerFactory

_STAGES = 3
_CIFAR_IMAGE = (3, 32, 32)
_DIGITS_IMAGE = (1, 8, 8)


class CifarResNet(nn.Module):
    """Three stages of widths w, 2w, 4w on images whose final feature map is averaged whole."""

    def __init__(
        self,
        factory: LayerFactory,
        *,
        blocks: int,
        width: int,
        image: tuple[int, int, int],
        classes: int,
    ) -> None:
        super().__init__()
        channels, size, _ = image
        self.conv1 = factory.first_convolution(channels, width, 3)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.layer1 = stage(factory, width, width, blocks, stride=1)
        self.layer2 = stage(factory, width, 2 * width, blocks, stride=2)
        self.layer3 = stage(factory, 2 * width, 4 * width, blocks, stride=2)
        self.avgpool = nn.AvgPool2d(size // 4)
        self.fc = factory.last_linear(4 * width, classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map float32 [N, channels, size, size] to logits [N, classes]."""
        features = self.relu(self.bn1(self.conv1(image)))
        features = self.layer3(self.layer2(self.layer1(features)))
        logits: torch.Tensor = self.fc(torch.flatten(self.avgpool(features), 1))
        return logits


def recognise(
    shapes: Shapes,
) -> tuple[str, tuple[int, int, int], Callable[[LayerFactory], nn.Module]] | None:
    """Recognise a CIFAR ResNet: (name, input shape, constructor), or None."""
    blocks = stage_blocks(shapes)
    if len(blocks) != _STAGES or has_bottlenecks(shapes) or min(blocks) < 1:
        return None
    first, last = shapes.get("conv1.weight", ()), shapes.get("fc.weight", ())
    if len(first) != 4 or len(last) != 2:  # noqa: PLR2004 - axes of a convolution, of a matrix
        return None
    width, channels = first[0], first[1]
    # The file does not say its image size: one channel is the 8 x 8 digits network.
    image = _DIGITS_IMAGE if channels == 1 else _CIFAR_IMAGE

    def build(factory: LayerFactory) -> nn.Module:
        return CifarResNet(factory, blocks=max(blocks), width=width, image=image, classes=last[0])

    return f"ResNet-{6 * max(blocks) + 2} (CIFAR)", image, build
