"""The ResNets of the field: of three stages for small images, of four for large ones and MNIST.

Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016; key names as in the
published training codes, which follow torchvision's.
"""

from __future__ import annotations

import re
from functools import partial

import torch
from torch import nn

from apot_export.original.architectures._protocol import Architecture, Shapes, convolution

_CIFAR_IMAGE = (3, 32, 32)
_DIGITS_IMAGE = (1, 8, 8)
_MNIST_IMAGE = (1, 28, 28)
_IMAGENET_IMAGE = (3, 224, 224)
_SMALL_STAGES, _LARGE_STAGES = 3, 4
_AXES_OF_CONVOLUTION, _AXES_OF_MATRIX = 4, 2
_BASIC_DEPTHS = {(1, 1, 1, 1): 10, (2, 1, 1, 2): 14, (2, 2, 2, 2): 18, (3, 4, 6, 3): 34}
_BOTTLENECK_DEPTHS = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}
_EXPANSION = 4
"""Output channels of a bottleneck block per inner channel."""


class Block(nn.Module):
    """Convolutions with batch-norms, and a shortcut that carries the unquantized ReLU output.

    Two 3x3 convolutions or, as a bottleneck, 1x1, 3x3 and 1x1 ones around a narrow waist.
    """

    def __init__(self, in_channels: int, channels: int, *, stride: int, bottleneck: bool) -> None:
        super().__init__()
        layout = [(channels, 3, stride), (channels, 3, 1)]
        if bottleneck:
            layout = [(channels, 1, 1), (channels, 3, stride), (channels * _EXPANSION, 1, 1)]
        self.convolutions, width = len(layout), in_channels
        for number, (wider, kernel, step) in enumerate(layout, start=1):
            self.add_module(f"conv{number}", convolution(width, wider, kernel, stride=step))
            self.add_module(f"bn{number}", nn.BatchNorm2d(wider))
            width = wider
        self.relu = nn.ReLU()
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != width:
            shortcut = convolution(in_channels, width, 1, stride=stride)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(width))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map float32 [N, in, H, W] to [N, out, H / stride, W / stride]."""
        features = image
        for number in range(1, self.convolutions + 1):
            features = self.get_submodule(f"conv{number}")(features)
            features = self.get_submodule(f"bn{number}")(features)
            if number < self.convolutions:
                features = self.relu(features)
        residual = image if self.downsample is None else self.downsample(image)
        result: torch.Tensor = self.relu(features + residual)
        return result


class ResNet(nn.Module):
    """A first convolution (with a max-pool, if there are four stages), stages, pool, linear.

    Args:
        blocks: Blocks per stage: three stages or four.
        width: Channels of the first stage; each further one has twice as many.
        image: One image: (channels, height, width).
        classes: Number of logits.
        bottleneck: Whether blocks have three convolutions, not two.
    """

    def __init__(
        self,
        *,
        blocks: tuple[int, ...],
        width: int,
        image: tuple[int, int, int],
        classes: int,
        bottleneck: bool = False,
    ) -> None:
        super().__init__()
        large = len(blocks) == _LARGE_STAGES
        channels, *size = image
        self.conv1 = convolution(channels, width, 7 if large else 3, stride=2 if large else 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if large else nn.Identity()
        in_channels = width
        self.stages = len(blocks)
        for number, count in enumerate(blocks, start=1):
            stage = []
            for stride in (1 if number == 1 else 2, *[1] * (count - 1)):
                stage.append(Block(in_channels, width, stride=stride, bottleneck=bottleneck))
                in_channels = width * (_EXPANSION if bottleneck else 1)
            self.add_module(f"layer{number}", nn.Sequential(*stage))
            width *= 2
        # Small images keep a quarter of their size, which is then averaged whole.
        quarter = (-(-size[0] // 4), -(-size[1] // 4))
        self.avgpool: nn.Module = nn.AdaptiveAvgPool2d(1) if large else nn.AvgPool2d(quarter)
        self.fc = nn.Linear(in_channels, classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map float32 [N, channels, size, size] to logits [N, classes]."""
        features = self.maxpool(self.relu(self.bn1(self.conv1(image))))
        for number in range(1, self.stages + 1):
            features = self.get_submodule(f"layer{number}")(features)
        logits: torch.Tensor = self.fc(torch.flatten(self.avgpool(features), 1))
        return logits


def stage_blocks(shapes: Shapes) -> tuple[int, ...]:
    """Count the blocks of layer1, layer2, ... as a state dict's keys name them.

    >>> stage_blocks({"layer1.0.conv1.weight": (), "layer1.1.conv1.weight": (), "fc.bias": ()})
    (2,)
    """
    last_block: dict[int, int] = {}
    for key in shapes:
        match = re.match(r"layer(\d{1,3})\.(\d{1,4})\.", key)
        if match:
            number, block = int(match[1]), int(match[2])
            last_block[number] = max(last_block.get(number, 0), block)
    if max(last_block.values(), default=0) >= len(shapes):
        return ()  # a number that no network of so few tensors can have
    stages = range(1, max(last_block, default=0) + 1)
    return tuple(last_block.get(number, -1) + 1 for number in stages)


def recognise(shapes: Shapes) -> Architecture | None:
    """Recognise a ResNet, or return None."""
    blocks = stage_blocks(shapes)
    first, last = shapes.get("conv1.weight", ()), shapes.get("fc.weight", ())
    if len(first) != _AXES_OF_CONVOLUTION or len(last) != _AXES_OF_MATRIX or 0 in blocks:
        return None
    bottleneck = "layer1.0.conv3.weight" in shapes
    width, channels = first[0], first[1]
    if len(blocks) == _SMALL_STAGES:
        # All stages have the same number of blocks; a missing one shows up as missing keys.
        blocks = (max(blocks),) * _SMALL_STAGES
        depth, tree = (9 if bottleneck else 6) * blocks[0] + 2, "CIFAR"
        image = _DIGITS_IMAGE if channels == 1 else _CIFAR_IMAGE
    elif len(blocks) == _LARGE_STAGES:
        depths = _BOTTLENECK_DEPTHS if bottleneck else _BASIC_DEPTHS
        if blocks not in depths:
            return None
        image = _MNIST_IMAGE if channels == 1 else _IMAGENET_IMAGE
        depth, tree = depths[blocks], "MNIST" if channels == 1 else "ImageNet"
    else:
        return None
    build = partial(
        ResNet, blocks=blocks, width=width, image=image, classes=last[0], bottleneck=bottleneck
    )
    return Architecture(
        name=f"ResNet-{depth} ({tree})",
        input_shape=image,
        first="conv1",
        last="fc",
        build=build,
        tree=tree,
    )
