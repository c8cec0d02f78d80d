"""Whole networks as people write them, of the authors' quantized layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.support.training_codes import FirstConv, LastFC, QuantConvV1, QuantConvV2


def _block(
    channels: int, outputs: int, stride: int = 1, kernel: int = 3, **options: Any
) -> nn.Module:
    conv = QuantConvV2(
        channels, outputs, kernel, stride, padding=kernel // 2, bias=False, **options
    )
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class InvertedResidual(nn.Module):
    """Expanded, depthwise, projected, and added where shapes allow."""

    def __init__(self, channels: int, outputs: int, stride: int) -> None:
        super().__init__()
        wide = 4 * channels
        self.shortcut = stride == 1 and channels == outputs
        self.body = nn.Sequential(
            _block(channels, wide, kernel=1), nn.ReLU6(inplace=True),
            _block(wide, wide, stride, groups=wide), nn.ReLU6(inplace=True),
            _block(wide, outputs, kernel=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Return features."""
        found: Tensor = self.body(x)
        return x + found if self.shortcut else found


class MobileNet(nn.Module):
    """MobileNetV2 in small, which averages one axis after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            FirstConv(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6()
        )
        self.features = nn.Sequential(
            InvertedResidual(8, 8, 1), InvertedResidual(8, 12, 2), InvertedResidual(12, 12, 1)
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), LastFC(12, 5))

    def forward(self, image: Tensor) -> Tensor:
        """Return logits."""
        features = self.features(self.stem(image)).mean(3).mean(2)
        logits: Tensor = self.classifier(features)
        return logits


class Excited(nn.Module):
    """A residual block of v1 layers with squeeze and excite, and a shortcut without parameters."""

    def __init__(self, channels: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv = QuantConvV1(channels, outputs, 3, stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.squeeze = nn.Linear(outputs, 4)
        self.excite = nn.Linear(4, outputs)
        self.stride, self.more = stride, outputs - channels

    def forward(self, x: Tensor) -> Tensor:
        """Return features."""
        found = self.norm(self.conv(x))
        gates = functional.silu(self.squeeze(found.mean((2, 3))))
        found = found * torch.sigmoid(self.excite(gates))[:, :, None, None]
        shortcut = x[:, :, :: self.stride, :: self.stride]
        half = self.more // 2
        return torch.relu(found + functional.pad(shortcut, (0, 0, 0, 0, half, self.more - half)))


class ExcitedResNet(nn.Module):
    """A ResNet for CIFAR with such blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = FirstConv(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.layers = nn.Sequential(Excited(8, 8, 1), Excited(8, 16, 2))
        self.fc = LastFC(16, 5)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits."""
        x = self.layers(functional.relu(self.bn1(self.conv1(image))))
        x = functional.avg_pool2d(x, x.size()[3])
        logits: Tensor = self.fc(x.view(x.size(0), -1))
        return logits


class UNet(nn.Module):
    """Down, and up again bilinearly, with a score for every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.inc = FirstConv(3, 8, 3, padding=1)
        self.down = _block(8, 16, 2)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.fuse = _block(24, 8)
        self.outc = nn.Conv2d(8, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return scores [N, 3, H, W]."""
        first = functional.leaky_relu(self.inc(image), 0.1)
        deep = self.up(functional.relu(self.down(first)))
        rows, columns = first.size(2) - deep.size(2), first.size(3) - deep.size(3)
        deep = functional.pad(
            deep, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2]
        )
        scores: Tensor = self.outc(torch.relu(self.fuse(torch.cat([first, deep], dim=1))))
        return scores


class Segmentation(nn.Module):
    """A head of pooled contexts, resized to the image; in a dictionary, as torchvision has it."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            FirstConv(3, 8, 3, 2, 1), nn.ReLU(), _block(8, 8), nn.Hardswish()
        )
        self.pools = nn.ModuleList([nn.AdaptiveAvgPool2d(size) for size in (1, 2, 3)])
        self.head = _block(32, 4)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return scores under "out"."""
        size = image.shape[-2:]
        x = self.backbone(image)
        context = [
            functional.interpolate(pool(x), x.shape[2:], mode="bilinear", align_corners=False)
            for pool in self.pools
        ]
        x = self.head(torch.cat([x, *context], dim=1))
        return {"out": functional.interpolate(x, size=size, mode="bilinear", align_corners=False)}


class TwoHeads(nn.Module):
    """Classes and boxes of one image."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(FirstConv(3, 8, 3, 2, 1), nn.GELU(), _block(8, 8), nn.ReLU())
        self.classes = LastFC(8, 5)
        self.boxes = QuantConvV2(8, 4, 1, bit=4)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits, and boxes of every place."""
        x = self.body(image)
        return self.classes(x.mean([2, 3])), self.boxes(x).flatten(2).transpose(1, 2)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "MobileNetV2": MobileNet,
    "SE-ResNet": ExcitedResNet,
    "U-Net": UNet,
    "segmentation head": Segmentation,
    "two heads": TwoHeads,
}
