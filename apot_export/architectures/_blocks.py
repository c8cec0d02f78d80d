"""What the ResNets of the field share: the basic block and reading stages off a state dict."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import nn

from apot_export.torch_layers import LayerFactory

Shapes = Mapping[str, tuple[int, ...]]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut that carries the unquantized ReLU output.

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, figure 5 (left).
    """

    def __init__(
        self, factory: LayerFactory, in_channels: int, channels: int, *, stride: int
    ) -> None:
        super().__init__()
        self.conv1 = factory.convolution(in_channels, channels, 3, stride=stride)
        self.conv2 = factory.convolution(channels, channels, 3)
        self.bn1 = nn.BatchNorm2d(channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                factory.convolution(in_channels, channels, 1, stride=stride),
                nn.BatchNorm2d(channels),
            )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map float32 [N, in, H, W] to [N, channels, H / stride, W / stride]."""
        features = self.relu(self.bn1(self.conv1(image)))
        features = self.bn2(self.conv2(features))
        residual = image if self.downsample is None else self.downsample(image)
        result: torch.Tensor = self.relu(features + residual)
        return result


def stage(
    factory: LayerFactory, in_channels: int, channels: int, blocks: int, *, stride: int
) -> nn.Sequential:
    """Return `blocks` basic blocks of which the first changes width and resolution."""
    first = BasicBlock(factory, in_channels, channels, stride=stride)
    rest = [BasicBlock(factory, channels, channels, stride=1) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


def stage_blocks(shapes: Shapes) -> list[int]:
    """Count the blocks of layer1, layer2, ... as a state dict's keys name them.

    >>> stage_blocks({"layer1.0.conv1.weight": (), "layer1.1.conv1.weight": (), "fc.bias": ()})
    [2]
    """
    last_block: dict[int, int] = {}
    for key in shapes:
        match = re.match(r"layer(\d{1,3})\.(\d{1,4})\.", key)
        if match:
            number, block = int(match[1]), int(match[2])
            last_block[number] = max(last_block.get(number, 0), block)
    if max(last_block.values(), default=0) >= len(shapes):
        return []  # a number that no network of so few tensors can have
    return [last_block.get(number, -1) + 1 for number in range(1, max(last_block, default=0) + 1)]


def has_bottlenecks(shapes: Shapes) -> bool:
    """Tell whether the blocks have a third convolution."""
    return "layer1.0.conv3.weight" in shapes
